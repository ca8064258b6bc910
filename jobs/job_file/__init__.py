"""Reading a job file: strict YAML into the parts of a job."""
