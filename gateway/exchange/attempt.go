package exchange

// AttemptObserver is told of each try at a backend, on the exchange's own
// goroutine, whatever protocol it speaks. Neither call may wait.
type AttemptObserver interface {
	// AttemptBegins runs before the request for the backend is built, so that
	// what it changes in ToBackend is that attempt's. x.Endpoint names the
	// endpoint, x.Attempts numbers the attempt from 1.
	AttemptBegins(x *Exchange)
	// AttemptEnds runs once for each attempt, when the backend has no more to do
	// with it: at the end of the response body at the latest. x.UpstreamStatus is
	// what it answered, 0 for nothing; fault says in one word why that is not
	// an answer or not a whole one, "" if nothing is wrong.
	AttemptEnds(x *Exchange, fault string)
}
