"""What a person looks at: the table of trials, figures, predictions over images, one page that holds them all."""
