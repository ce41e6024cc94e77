package mirror

import (
	"net/netip"
	"sync"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// job is a copy of a request with the answer that its service gave. Nothing in it is borrowed.
type job struct {
	mirror *mirror
	arena  []byte

	method, path, query, host    []byte
	forwardedHost, forwardedPort []byte
	subject, requestID, body     []byte
	fields                       []exchange.Field
	edits                        []exchange.HeaderEdit

	scheme        string
	client, peer  netip.Addr
	trusted       bool
	authenticated bool
	consumer      *exchange.Consumer
	answer        answer
}

var jobs = sync.Pool{New: func() any { return new(job) }}

// maxArena is how large the memory of a job may be that is used again.
const maxArena = 256 << 10

func (j *job) free() {
	arena, fields, edits := j.arena[:0], j.fields[:0], j.edits[:0]
	clear(j.fields)
	clear(j.edits)
	if cap(arena) > maxArena {
		arena = nil
	}
	*j = job{arena: arena, fields: fields, edits: edits}
	jobs.Put(j)
}

// fill copies everything that the request for the copy's service is made of.
func (j *job) fill(m *mirror, x *exchange.Exchange, a *answer) {
	edits := x.ToBackend.List()
	size := len(x.Method()) + len(x.BackendPath()) + len(x.BackendQuery()) + len(x.Request.Header.Host()) + len(x.ForwardedHost) + len(x.ForwardedPort) +
		len(x.Identity.Subject) + len(x.RequestID) + len(x.Body) + len(a.head) + len(a.body)
	for i := range x.Fields {
		size += len(x.Fields[i].Name) + len(x.Fields[i].Value)
	}
	for i := range edits {
		size += len(edits[i].Value)
	}
	if cap(j.arena) < size {
		j.arena = make([]byte, 0, size)
	}
	j.mirror = m
	j.method, j.path, j.query, j.host = j.copy(x.Method()), j.copy(x.BackendPath()), j.copy(x.BackendQuery()), j.copy(x.Request.Header.Host())
	j.forwardedHost, j.forwardedPort = j.copy(x.ForwardedHost), j.copy(x.ForwardedPort)
	j.subject, j.requestID, j.body = j.copy(x.Identity.Subject), j.copy(x.RequestID), j.copy(x.Body)
	for i := range x.Fields {
		if f := &x.Fields[i]; f.Kind != exchange.KindUpgrade {
			j.fields = append(j.fields, exchange.Field{Name: j.copy(f.Name), Value: j.copy(f.Value), Kind: f.Kind})
		}
	}
	for i := range edits {
		e := edits[i]
		e.Value = j.copy(e.Value)
		j.edits = append(j.edits, e)
	}
	j.scheme, j.client, j.peer, j.trusted = x.Scheme, x.ClientAddr, x.PeerAddr, x.TrustedPeer
	j.authenticated, j.consumer = x.Identity.Authenticated, x.Identity.Consumer
	j.answer = *a
	j.answer.head, j.answer.body = j.copy(a.head), j.copy(a.body)
	if x.Aborted.Load() {
		j.answer.known = false // not all of it was seen
	}
}

// copy puts b into the arena, which has room for it.
func (j *job) copy(b []byte) []byte {
	if b == nil {
		return nil
	}
	at := len(j.arena)
	j.arena = append(j.arena, b...)
	return j.arena[at:len(j.arena):len(j.arena)]
}

// size in bytes, for the bound of the queue.
func (j *job) size() int64 { return int64(len(j.arena)) + 512 }

// pour makes an exchange of the job, as an engine would have of the request.
func (j *job) pour(x *exchange.Exchange) {
	h := &x.Request.Header
	h.SetMethodBytes(j.method)
	h.SetHostBytes(j.host)
	h.SetRequestURI("/?" + string(j.query)) // balancers look at parameters there
	for i := range j.fields {
		if f := &j.fields[i]; exchange.EqualFold(f.Name, fasthttp.HeaderCookie) {
			h.SetBytesV(fasthttp.HeaderCookie, f.Value)
		}
	}
	x.Fields = append(x.Fields[:0], j.fields...)
	x.Path, x.Query, x.Host = j.path, j.query, j.host
	x.Scheme, x.ForwardedHost, x.ForwardedPort = j.scheme, j.forwardedHost, j.forwardedPort
	x.ClientAddr, x.PeerAddr, x.TrustedPeer = j.client, j.peer, j.trusted
	x.Identity = exchange.Identity{Authenticated: j.authenticated, Subject: j.subject, Consumer: j.consumer}
	x.RequestID, x.Body = j.requestID, j.body
	for i := range j.edits {
		switch e := &j.edits[i]; e.Op {
		case exchange.EditSet:
			x.ToBackend.Set(e.Name, e.Value)
		case exchange.EditAdd:
			x.ToBackend.Add(e.Name, e.Value)
		case exchange.EditRemove:
			x.ToBackend.Remove(e.Name)
		}
	}
	x.ToBackend.Set(j.mirror.mark, marked)
}

var marked = []byte("1")
