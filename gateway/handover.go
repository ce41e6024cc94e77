package gateway

import (
	"maps"
	"slices"

	"sluice/gateway/handover"
	"sluice/gateway/listener"
)

// openSocket opens a listener's socket, or takes the one that this process was given.
func (g *Gateway) openSocket(name, address string) (*listener.Listener, error) {
	network, at := listener.Network(address)
	ln, shared, err := g.o.Sockets.Listener(socketOf(name, address), name, network, at)
	if err != nil {
		return nil, err
	}
	if ln != nil {
		return listener.On(name, ln, shared, g.log), nil
	}
	return listener.Listen(name, address, g.log)
}

// Sockets are those that connections of clients are accepted on, for a successor.
func (g *Gateway) Sockets() (list []handover.Socket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(g.servers)) {
		l := g.servers[key].Listener()
		list = append(list, handover.Socket{Key: key, Shared: l.Shared(), Conn: l.Socket()})
	}
	return list
}

// Leave stops accepting at once: another process has the sockets and serves. Shutdown
// waits for what is in flight, as ever.
func (g *Gateway) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left.Store(true)
	for _, s := range g.servers {
		s.Leave()
	}
}

// succeeds tells whether a predecessor lives. Ports of UDP are its own until it has
// ended: two processes that read one socket would take each other's datagrams.
func (g *Gateway) succeeds() bool {
	gone := g.o.Sockets.Predecessor()
	if gone == nil {
		return false
	}
	select {
	case <-gone:
		return false
	default:
		return true
	}
}

// inheritPorts begins to speak HTTP/3 once the predecessor has.
func (g *Gateway) inheritPorts(gone <-chan struct{}) {
	select {
	case <-g.stop:
		return
	case <-gone:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	current := g.current.Load()
	if current == nil || g.draining.Load() {
		return
	}
	for name, lc := range current.Config.Listeners {
		s := g.servers[socketOf(name, lc.Address)]
		if lc.HTTP3.Off || s == nil {
			continue
		}
		if _, err := s.OpenHTTP3(); err != nil {
			g.log.Error("listeners." + name + ".http3: " + err.Error())
			continue
		}
		g.switchHTTP3(s, name, true)
	}
}
