"""Use of a trained run: its policy and model are loaded, played, drawn and exported."""
