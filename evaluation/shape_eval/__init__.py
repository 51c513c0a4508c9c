"""ShapeEval: finds the shapes of an image and checks them against a prompt, without torch."""
