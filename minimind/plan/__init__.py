"""What a run costs, and which one to choose: memory, operations and time, and a scaling law."""
