"""What commands print and draw: tables, summaries and pages."""
