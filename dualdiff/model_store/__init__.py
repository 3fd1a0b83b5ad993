"""Models on disk: folders of JSON and safetensors, and their parts."""
