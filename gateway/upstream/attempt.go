package upstream

// These are all the places where an exchange.Observer is told of attempts.
// An attempt begins in run and ends in leaveEndpoint, by whatever door.

func (c *call) attemptBegins() {
	if o := c.x.Observer; o != nil {
		o.AttemptBegins(c.x)
	}
}

// attemptFails remembers what became of the attempt until it ends.
func (c *call) attemptFails(err error) {
	if c.x.Observer != nil {
		c.fault = c.rejection(err).Reason
	}
}

func (c *call) attemptEnds() {
	if o := c.x.Observer; o != nil {
		o.AttemptEnds(c.x, c.fault)
	}
	c.fault = ""
}
