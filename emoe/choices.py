"""What can be chosen by name. Free of torch, so that a wrong name in an option or a weights.toml is told at once."""

# What `layers` mixes in every transformer block outside the mid-block; all else is the base's.
LAYERS = {"attn": ("to_q", "to_k", "to_v"), "ff": ("ff",), "all": ("to_q", "to_k", "to_v", "ff")}
# The sub-layers at which samples may become paths, for each choice of `layers`.
SPLITS = {"attn": ("attn1", "attn2"), "ff": ("ff",), "all": ("attn1", "attn2", "ff")}
GATES = ("prompt", "uniform", "hidden")

READ_OUTS = ("post", "pre")  # what leaves the mid-block (the paper's), what enters it
ESTIMATORS = ("eu", "eu-over-answer")  # the paper's, and over how far the prompt moves the mid-block

MODES = ("emoe", "fast", "mixture")  # an image per expert's path; one image, with the paths' uncertainty; one, without
SCHEDULERS = ("ddim", "ddpm", "dpm++")
DTYPES = ("float32", "float16", "bfloat16")
