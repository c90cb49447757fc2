"""What every layer speaks: configuration, robot, transitions, snapshots, kinematics. numpy only."""
