"""Applications as JSON documents: read with every rule, shown, merged. Pure; the API and files speak it."""
