"""What tests of the whole product share: programs, ports, patience, namespaces, a running edge."""
