"""What was asked for, what the device is and allows, and the memory plan that follows."""
