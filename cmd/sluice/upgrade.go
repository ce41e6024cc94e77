package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"sluice/gateway/handover"
)

// upgradeTimeout is how long a new binary may take to serve.
const upgradeTimeout = time.Minute

// successor is a new binary on its way.
type successor struct {
	cancel context.CancelFunc
	done   chan error
}

// upgrade starts the binary that now stands where this one was started from, on the same
// sockets. Reloads wait: what the new one opens must not be opened here meanwhile.
func (p *process) upgrade(ctx context.Context) successor {
	ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
	next := successor{cancel, make(chan error, 1)}
	go func() {
		defer cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		sockets := append(p.gateway.Sockets(), p.admin.Socket()...)
		p.log.Info("starting a new binary on the same sockets", "sockets", len(sockets))
		pid, life, err := handover.Start(ctx, sockets)
		if err == nil {
			p.life = life
			p.log.Info("handed over", "process", pid)
		}
		next.done <- err
	}()
	return next
}

// retire ends a process whose successor serves: what is in flight is waited for.
func (p *process) retire(ctx context.Context, signals <-chan os.Signal) {
	p.gateway.Leave()
	p.log.Info("draining", "timeout", p.drainTimeout.String())
	p.end(signals, func() {
		closing, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_ = p.admin.Leave(closing)
		p.stop(ctx, false)
	})
}

// serve tells those who wait for it that this process serves: a predecessor, and systemd.
func (p *process) serve() {
	for _, name := range p.sockets.Ready() {
		p.log.Warn("a socket that this process was given is in no listener's use, and was closed", "socket", name)
	}
	p.notify(fmt.Sprintf("MAINPID=%d\n%s", os.Getpid(), daemon.SdNotifyReady))
}

// notify tells systemd, where it started this process and wants to know.
func (p *process) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		p.log.Warn("systemd was not told", "state", state, "error", err.Error())
	}
}
