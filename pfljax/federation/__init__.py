"""What happens between clients and server: who takes part, how uploads become one, what the server does with them."""
