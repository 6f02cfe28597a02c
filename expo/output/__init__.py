"""Door out: sinks (folder, live model), side files, manifest, card."""
