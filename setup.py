"""The ament_python package `vision`; also installs with plain pip."""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = "vision"
NODES = ("vision_node", "camera_node", "detector_node", "classifier_node")

setup(
    name=PACKAGE,
    version="0.1.0",
    description="Real-time object detection and classification for robots, on their own CPU",
    license="Apache-2.0",
    maintainer="The vision developers",
    maintainer_email="vision@example.org",
    python_requires=">=3.10",
    packages=find_packages(include=["pipeline", "pipeline.*", "nodes", "nodes.*"]),
    package_data={"pipeline": ["py.typed"], "nodes": ["fastdds.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", sorted(glob("launch/*.launch.py"))),
        (f"share/{PACKAGE}/config", sorted(glob("config/*.*"))),
        (f"share/{PACKAGE}/models", sorted(glob("models/*.*"))),
        (f"share/{PACKAGE}/models/samples", sorted(glob("models/samples/*"))),
    ],
    install_requires=[
        "numpy>=1.26",
        "opencv-python>=4.6",
        "onnxruntime>=1.17",
        "numba>=0.59",
        "pyzmq>=25",
        "msgspec>=0.18",
        "pyyaml>=6",
        "click>=8.1",
        "rich>=13",
        "platformdirs>=4",
        "tomli>=2; python_version < '3.11'",
        "psutil>=5.9",
    ],
    extras_require={
        "jpeg": ["simplejpeg>=1.7"],
        "convert": ["onnx>=1.15"],
        "evaluate": ["pycocotools>=2.0.7"],
        "plot": ["matplotlib>=3.7"],
        # For where there is no ROS distribution; vision_msgs is not on the package index.
        "ros": [
            "ros-diagnostic-msgs",
            "ros-lifecycle-msgs",
            "ros-rclpy",
            "ros-rmw-fastrtps-cpp",
            "ros-sensor-msgs",
            "ros-std-msgs",
            "ros-std-srvs",
        ],
        "test": [
            "onnx>=1.15",
            "pycocotools>=2.0.7",
            "matplotlib>=3.7",
            "pytest>=8",
            "hypothesis>=6.100",
            "simplejpeg>=1.7",
            "setuptools>=70.1",  # builds the wheel that the tests install
        ],
        # What transports are measured against; dora-rs has wheels for some systems only.
        "bench": [
            "imagezmq>=1.2",
            "motmetrics>=1.4",
            "simplejpeg>=1.7",
            "dora-rs>=1.1; sys_platform == 'linux' and python_version >= '3.11'",
            "dora-rs-cli>=1.1; sys_platform == 'linux' and python_version >= '3.11'",
        ],
        "dev": ["ruff>=0.6", "mypy>=1.11", "types-PyYAML", "types-psutil"],
    },
    entry_points={
        "console_scripts": [
            "vision = pipeline.cli.__main__:main",
            *(f"{node} = nodes.executables:{node}" for node in NODES),
        ]
    },
    zip_safe=False,
)
