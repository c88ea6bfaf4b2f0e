"""The process that systemd watches: it keeps one serving process alive and replaces it without a gap."""
