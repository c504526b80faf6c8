"""Who is who: certificates and their authority, tokens, keys and signatures."""
