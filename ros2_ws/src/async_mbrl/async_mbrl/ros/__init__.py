"""rclpy: quality of service, parameters, message conversion, streams, running a node."""
