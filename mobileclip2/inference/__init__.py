"""Use a trained model: embed, rank and classify pictures and texts of one's own."""
