"""What the connectors of file formats share."""
