"""The ROS 2 room: the only home of rclpy and of message classes."""
