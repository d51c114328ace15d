"""Recorded runs: rosbag2 files read and written without ROS, and public data brought into that form."""
