"""What an AlexNet is: layers, weights, preprocessing, views, labels."""
