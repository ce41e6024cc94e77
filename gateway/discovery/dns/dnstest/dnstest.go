// Package dnstest is a name server for tests, over UDP and TCP.
package dnstest

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Server answers from a zone. Close and Restart are its death and its return.
type Server struct {
	Address string

	t       testing.TB
	servers []*dns.Server

	mu        sync.Mutex
	records   []dns.RR
	extra     []dns.RR
	rcode     int
	truncate  bool
	questions []string
}

// Start starts a server with records as they stand in a zone file: "users.internal. 5 IN A 10.0.0.1".
func Start(t testing.TB, records ...string) *Server {
	t.Helper()
	s := &Server{t: t}
	s.Set(records...)
	s.listen("127.0.0.1:0")
	t.Cleanup(s.Close)
	return s
}

func (s *Server) listen(address string) {
	s.t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", address) //nolint:noctx // nothing can cancel it
		if err != nil {
			s.t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", l.Addr().String()) //nolint:noctx // nothing can cancel it
		if err != nil {
			_ = l.Close() // the port is another program's over UDP
			continue
		}
		s.Address = l.Addr().String()
		s.servers = []*dns.Server{{Listener: l, Handler: s}, {PacketConn: p, Handler: s}}
		for _, server := range s.servers {
			started := make(chan struct{})
			server.NotifyStartedFunc = func() { close(started) }
			go func() { _ = server.ActivateAndServe() }()
			<-started
		}
		return
	}
	s.t.Fatal("no port is free for both UDP and TCP")
}

// Close answers no more.
func (s *Server) Close() {
	for _, server := range s.servers {
		_ = server.Shutdown()
	}
	s.servers = nil
}

// Restart answers again at the same address.
func (s *Server) Restart() {
	s.t.Helper()
	s.listen(s.Address)
}

// Set replaces the records.
func (s *Server) Set(records ...string) {
	s.t.Helper()
	all := s.parse(records)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = all
}

// Bring has answers to SRV questions bring these records along.
func (s *Server) Bring(records ...string) {
	all := s.parse(records)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.extra = all
}

// Fail has every answer be this code; 0 ends it.
func (s *Server) Fail(rcode int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcode = rcode
}

// Truncate has answers over UDP be cut off.
func (s *Server) Truncate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.truncate = true
}

// Questions are those that were asked, "users.internal. A udp".
func (s *Server) Questions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.questions)
}

func (s *Server) parse(records []string) (all []dns.RR) {
	s.t.Helper()
	for _, text := range records {
		rr, err := dns.NewRR(text)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, rr)
	}
	return all
}

// ServeDNS answers a question.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := q.Question[0]
	network := w.LocalAddr().Network()
	s.questions = append(s.questions, asked.Name+" "+dns.TypeToString[asked.Qtype]+" "+network)
	a := new(dns.Msg)
	a.SetReply(q)
	switch {
	case s.rcode != 0:
		a.Rcode = s.rcode
	case s.truncate && network == "udp":
		a.Truncated = true
	default:
		s.answer(a, asked.Name, asked.Qtype)
	}
	_ = w.WriteMsg(a)
}

func (s *Server) answer(a *dns.Msg, name string, kind uint16) {
	exists := false
	for range 8 { // aliases on the way
		alias := ""
		for _, rr := range s.records {
			if !strings.EqualFold(rr.Header().Name, name) {
				continue
			}
			exists = true
			switch c, ok := rr.(*dns.CNAME); {
			case rr.Header().Rrtype == kind:
				a.Answer = append(a.Answer, rr)
			case ok:
				a.Answer = append(a.Answer, rr)
				alias = c.Target
			}
		}
		if alias == "" {
			break
		}
		name = alias
	}
	if !exists {
		a.Rcode = dns.RcodeNameError
	}
	if kind == dns.TypeSRV {
		a.Extra = s.extra
	}
}
