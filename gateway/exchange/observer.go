package exchange

// Observer is told of what is asked of others on behalf of a request, on the
// exchange's own goroutine, whatever protocol it is asked in. No call may wait.
type Observer interface {
	// AttemptBegins runs before the request for the backend is built, so that
	// what it changes in ToBackend is that attempt's. x.Endpoint names the
	// endpoint, x.Attempts numbers the attempt from 1.
	AttemptBegins(x *Exchange)
	// AttemptEnds runs once for each attempt, when the backend has no more to do
	// with it: at the end of the response body at the latest. x.UpstreamStatus is
	// what it answered, 0 for nothing; fault says in one word why that is not
	// an answer or not a whole one, "" if nothing is wrong.
	AttemptEnds(x *Exchange, fault string)
	// CallBegins runs before a policy asks the service at url, by method, and gives
	// set the headers for it. The values are borrowed until CallEnds.
	CallBegins(x *Exchange, policy, method, url string, set func(name string, value []byte))
	// CallEnds runs when the policy has its answer, or a fault in its place.
	CallEnds(x *Exchange, status int, fault string)
}
