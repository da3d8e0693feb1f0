"""Floor 6: rules as callable ops on torch: layouts, states, backends, registration, and the specification that holds them."""
