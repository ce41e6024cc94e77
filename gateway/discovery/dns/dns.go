// Package dns finds endpoints by asking name servers for A, AAAA and SRV records, anew when their time to live ends.
package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"sluice/config"
	"sluice/gateway/discovery"
)

// Definition of the source.
var Definition = &discovery.Definition{Name: "dns", Open: open}

// resolvConf is what says which servers to ask where the configuration does not.
const resolvConf = "/etc/resolv.conf"

type source struct{ c config.DiscoveryDNS }

func open(d *config.Discovery) (discovery.Source, error) { return &source{d.DNS}, nil }

func (s *source) Where() string {
	if s.c.IsSRV() {
		return "dns SRV " + s.c.Name
	}
	kind := map[string]string{"a": "A", "aaaa": "AAAA"}[s.c.Record]
	if kind == "" {
		kind = "A, AAAA"
	}
	return "dns " + kind + " " + s.c.Name + " port " + strconv.Itoa(s.c.Port)
}

func (s *source) Watch(ctx context.Context, tell discovery.Tell) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		// Servers and domains may have changed since, as on a laptop or after a lease of DHCP.
		r, err := s.resolver()
		if err != nil {
			return err
		}
		set, ttl, err := s.lookUp(ctx, r)
		if err != nil {
			return err
		}
		tell(set, nil)
		timer.Reset(min(max(ttl, s.c.MinRefresh), s.c.Refresh))
	}
}

// resolver is whom to ask, and how to complete names.
type resolver struct {
	servers, search []string
	ndots           int
	timeout         time.Duration
}

func (s *source) resolver() (*resolver, error) {
	r := &resolver{servers: slices.Clone(s.c.Servers), search: s.c.Search, ndots: s.c.NDots, timeout: s.c.Timeout}
	if system, err := dns.ClientConfigFromFile(resolvConf); err == nil {
		if len(r.servers) == 0 {
			for _, server := range system.Servers {
				r.servers = append(r.servers, net.JoinHostPort(server, system.Port))
			}
		}
		if len(r.search) == 0 {
			r.search = system.Search
		}
		if r.ndots == 0 {
			r.ndots = system.Ndots
		}
	} else if len(r.servers) == 0 {
		return nil, fmt.Errorf("cannot read %s, and no servers are named: %w", resolvConf, err)
	}
	if len(r.servers) == 0 {
		return nil, errors.New(resolvConf + " names no server")
	}
	for i, server := range r.servers {
		if _, _, err := net.SplitHostPort(server); err != nil {
			r.servers[i] = net.JoinHostPort(strings.Trim(server, "[]"), "53")
		}
	}
	if r.ndots == 0 {
		r.ndots = 1
	}
	return r, nil
}

// names are what a name may stand for, in the order in which they are asked for.
func (r *resolver) names(name string) []string {
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	completed := make([]string, 0, len(r.search)+1)
	for _, domain := range r.search {
		if domain = strings.Trim(domain, "."); domain != "" {
			completed = append(completed, name+"."+domain+".")
		}
	}
	if strings.Count(name, ".") >= r.ndots {
		return append([]string{name + "."}, completed...)
	}
	return append(completed, name+".")
}

// lookUp returns the endpoints that the name has, and for how long that is true. A name that does not exist, or has no
// such records, has none.
func (s *source) lookUp(ctx context.Context, r *resolver) (set []discovery.Endpoint, ttl time.Duration, err error) {
	ttl = s.c.Refresh
	for _, name := range r.names(s.c.Name) {
		if s.c.IsSRV() {
			set, ttl, err = s.services(ctx, r, name)
		} else {
			set, ttl, err = s.addresses(ctx, r, name)
		}
		if err != nil || len(set) > 0 {
			return set, ttl, err
		}
	}
	return nil, ttl, nil
}

func (s *source) addresses(ctx context.Context, r *resolver, name string) ([]discovery.Endpoint, time.Duration, error) {
	ips, ttl, err := s.ips(ctx, r, name)
	if err != nil {
		return nil, 0, err
	}
	port := strconv.Itoa(s.c.Port)
	set := make([]discovery.Endpoint, len(ips))
	for i, ip := range ips {
		set[i] = discovery.Endpoint{Address: net.JoinHostPort(ip, port), Host: net.JoinHostPort(strings.TrimSuffix(s.c.Name, "."), port), Weight: 1}
	}
	return set, ttl, nil
}

// ips asks for the addresses of a name, of both families unless one is wanted alone.
func (s *source) ips(ctx context.Context, r *resolver, name string) (ips []string, ttl time.Duration, err error) {
	ttl = s.c.Refresh
	for _, family := range [...]struct {
		record string
		kind   uint16
	}{{"a", dns.TypeA}, {"aaaa", dns.TypeAAAA}} {
		if (s.c.Record == "a" || s.c.Record == "aaaa") && s.c.Record != family.record {
			continue
		}
		answer, err := r.ask(ctx, name, family.kind)
		if err != nil {
			return nil, 0, err
		}
		for _, rr := range answer.Answer {
			// Aliases on the way have a time to live too.
			ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
			switch rr := rr.(type) {
			case *dns.A:
				ips = append(ips, rr.A.String())
			case *dns.AAAA:
				ips = append(ips, rr.AAAA.String())
			}
		}
	}
	return ips, ttl, nil
}

// services asks for SRV records, and for the addresses of their targets, unless the answer has them already.
func (s *source) services(ctx context.Context, r *resolver, name string) ([]discovery.Endpoint, time.Duration, error) {
	answer, err := r.ask(ctx, name, dns.TypeSRV)
	if err != nil {
		return nil, 0, err
	}
	ttl := s.c.Refresh
	var records []*dns.SRV
	for _, rr := range answer.Answer {
		ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
		// A target of "." says that there is no such service here (RFC 2782).
		if srv, ok := rr.(*dns.SRV); ok && srv.Target != "." {
			records = append(records, srv)
		}
	}
	if len(records) == 0 {
		return nil, ttl, nil
	}
	first := slices.MinFunc(records, func(a, b *dns.SRV) int { return int(a.Priority) - int(b.Priority) }).Priority
	records = slices.DeleteFunc(records, func(srv *dns.SRV) bool { return srv.Priority != first })
	var set []discovery.Endpoint
	for _, srv := range records {
		ips := added(answer, srv.Target)
		if len(ips) == 0 {
			var of time.Duration
			if ips, of, err = s.ips(ctx, r, srv.Target); err != nil {
				return nil, 0, fmt.Errorf("of the target %s: %w", srv.Target, err)
			}
			ttl = min(ttl, of)
		}
		port := strconv.Itoa(int(srv.Port))
		for _, ip := range ips {
			set = append(set, discovery.Endpoint{
				Address: net.JoinHostPort(ip, port), Host: net.JoinHostPort(strings.TrimSuffix(srv.Target, "."), port),
				// A weight of 0 asks for hardly any, not for none (RFC 2782).
				Weight: max(int(srv.Weight), 1),
			})
		}
	}
	return set, ttl, nil
}

// added are the addresses of a target that an answer brings along.
func added(answer *dns.Msg, target string) (ips []string) {
	for _, rr := range answer.Extra {
		if !strings.EqualFold(rr.Header().Name, target) {
			continue
		}
		switch rr := rr.(type) {
		case *dns.A:
			ips = append(ips, rr.A.String())
		case *dns.AAAA:
			ips = append(ips, rr.AAAA.String())
		}
	}
	return ips
}

// ask puts a question to the servers, one after the other until one answers. An answer that there is no such name, or
// nothing of this kind, is one; a server that can not tell is passed over.
func (r *resolver) ask(ctx context.Context, name string, kind uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	q.SetEdns0(1232, false)
	var failure error
	for _, server := range r.servers {
		answer, err := r.exchange(ctx, q, server)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			failure = fmt.Errorf("%s does not answer for %s: %w", server, name, err)
		case answer.Rcode == dns.RcodeSuccess || answer.Rcode == dns.RcodeNameError:
			return answer, nil
		default:
			failure = fmt.Errorf("%s answers %s for %s", server, dns.RcodeToString[answer.Rcode], name)
		}
	}
	return nil, failure
}

// exchange asks one server by UDP, and by TCP where the answer does not fit.
func (r *resolver) exchange(ctx context.Context, q *dns.Msg, server string) (*dns.Msg, error) {
	answer, _, err := (&dns.Client{Net: "udp", Timeout: r.timeout, UDPSize: 1232}).ExchangeContext(ctx, q, server)
	if err != nil || !answer.Truncated {
		return answer, err
	}
	answer, _, err = (&dns.Client{Net: "tcp", Timeout: r.timeout}).ExchangeContext(ctx, q, server)
	return answer, err
}
