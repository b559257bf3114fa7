"""Model folders of the hub: safetensors files, their configuration, and the way back."""
