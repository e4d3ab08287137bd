"""Ray clusters: commands, a rehearsal on two nodes of one machine, and a sample for Kubernetes (see ``README.md``)."""
