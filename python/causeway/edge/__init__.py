"""The agent of a node: owns the engine, knows nothing of the control plane but the exchange."""
