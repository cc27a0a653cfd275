"""What a network costs: multiply-adds, parameters, memory; counted on the meta device, and as the papers print them."""
