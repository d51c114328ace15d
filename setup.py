"""Build script: kept in setup.py because colcon's ament_python build type reads it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "vjepa_ac_planner"
ROOT = Path(__file__).resolve().parent
SHARE = f"share/{PACKAGE}"


def version() -> str:
    """It stands once, in the package, which is read as text: its needs are not installed yet."""
    text = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"{PACKAGE}/__init__.py has no __version__ line")
    return match.group(1)


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below ``folder``, as (target folder under share/, [files]) pairs for ``data_files``."""
    pairs: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).rglob("*")):
        hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(ROOT).parts)
        if path.is_file() and not hidden:
            name = path.relative_to(ROOT)
            pairs.setdefault(f"{SHARE}/{name.parent.as_posix()}", []).append(name.as_posix())
    return list(pairs.items())


SIM = [
    "mujoco>=4.0,<4.1",  # rendered frames differ between minor versions
    "gymnasium-robotics>=1.4,<2",  # the Panda meshes, read at run time
    "pillow>=10",  # animated GIFs of a run
]
TRAINING = [
    "tqdm>=4.60",
    "accelerate>=1.0,<2",  # several GPUs and machines
    "peft>=0.13,<1",  # low-rank adapters
    "tensorboard>=2.14,<3",
]
BAGS = [  # rosbag2 without ROS
    "rosbags>=0.11.9,<0.12",  # message definitions and their decoding
    "mcap>=1.2,<2",
    "lz4>=4",
    "backports.zstd>=1; python_version < '3.14'",
]
CONVERT = [  # bags of DROID episodes and LeRobot data sets
    *BAGS,
    "h5py>=3.8",
    "pyarrow>=14",
    "av>=12",  # reads the videos' own times; OpenCV's wheel lacks AV1
]
ROS = [  # Kilted; a ROS installation (Jazzy or later) brings its own and needs no extra
    "ros-rclpy[fastrtps]>=9.1,<10",
    "ros-sensor-msgs>=5.5,<6",
    "ros-geometry-msgs>=5.5,<6",
    "ros-std-msgs>=5.5,<6",
    "ros-std-srvs>=5.5,<6",
    "ros-diagnostic-msgs>=5.5,<6",
    "ros-lifecycle-msgs>=2.3,<3",
]
TEST = ["pytest>=8", "pytest-rerunfailures>=15,<17", "hypothesis>=6.100"]
DEV = [
    *TEST,
    "pytest-xdist>=3.5,<4",  # `make test` runs in two processes
    "setuptools>=70.1",  # a test builds the wheel
    "ruff>=0.9",
    "mypy>=1.14",
    "types-PyYAML",
]

setup(
    name=PACKAGE,
    version=version(),
    description="Goal-image planning for robot arms with the V-JEPA 2-AC world model",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="vjepa_ac_planner maintainers",
    author_email="maintainers@vjepa-ac-planner.example",
    maintainer="vjepa_ac_planner maintainers",
    maintainer_email="maintainers@vjepa-ac-planner.example",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(exclude=["test", "test.*"]),
    package_data={PACKAGE: ["py.typed", "report/*.css", "report/*.js"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (SHARE, ["package.xml"]),
        *tree("launch"),
        *tree("config"),
        *tree("models"),
    ],
    install_requires=[
        "torch>=2.6,<3",
        "transformers>=4.53,<6",
        "numpy>=1.24,<3",
        "opencv-python-headless>=4.8",
        "pyyaml>=6",
        "safetensors>=0.4.3",
    ],
    # colcon looks for pytest in an extra of this name before it runs any test.
    extras_require={
        "test": TEST,
        "sim": SIM,
        "training": TRAINING,
        "bags": BAGS,
        "convert": CONVERT,
        "float8": ["torchao>=0.13"],  # on a GPU of compute capability 8.9 or above
        "ros": ROS,
        "dev": DEV,
    },
    entry_points={
        "console_scripts": [
            "vjepa-ac = vjepa_ac_planner.cli.main:main",
            # For `ros2 run vjepa_ac_planner planner_node`; setup.cfg puts scripts where it looks for them.
            "planner_node = vjepa_ac_planner.ros.planner_node:main",
            "sim_node = vjepa_ac_planner.ros.sim_node:main",
        ]
    },
    zip_safe=False,
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
