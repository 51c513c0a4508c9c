"""TensorRT: graphs that its parser takes, optimisation profiles from a plan, engines through Polygraphy."""
