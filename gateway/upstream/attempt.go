package upstream

// These are all the places where an exchange.Observer is told of attempts, where
// there is one.
// An attempt begins in run and ends in leaveEndpoint, by whatever door.

func (c *call) attemptBegins() { c.x.Observer.AttemptBegins(c.x) }

// attemptFails remembers what became of the attempt until it ends.
func (c *call) attemptFails(err error) {
	if c.x.Observer != nil {
		c.fault, c.spent = c.rejection(err).Reason, true
	}
}

func (c *call) attemptEnds() {
	c.x.Observer.AttemptEnds(c.x, c.fault)
	c.fault = ""
}
