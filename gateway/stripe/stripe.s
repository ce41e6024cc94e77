// Lets the package declare functions without a body, which the runtime implements.
