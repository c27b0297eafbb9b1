"""What a model costs: functions of a recorded trace and the module tree."""
