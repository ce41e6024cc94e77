package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/admin"
	"sluice/gateway/handover"
	"sluice/gateway/registry"
	"sluice/gateway/resident"
	"sluice/gateway/source"
	"sluice/gateway/source/consul"
	"sluice/gateway/source/kubernetes"
	"sluice/gateway/telemetry"
)

func runCommand() *cobra.Command {
	var p process
	c := &cobra.Command{
		Use:   "run -c FILE|DIR|etcd://HOST:PORT/PREFIX",
		Short: "run the gateway",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := p.configuration.check(); err != nil {
				return err
			}
			return p.run()
		},
	}
	p.configuration.flags(c)
	p.flags(c)
	c.Flags().BoolVar(&p.watch, "watch", true, "reload when the configuration changes")
	c.Flags().StringVar(&p.state, "state", "", "folder of what outlives the process, over state.dir; a configuration in etcd is kept there, to start from when etcd can not be asked")
	return c
}

// process is a running gateway: its flags, its parts, and the signals it obeys.
type process struct {
	configuration configuration
	watch         bool
	state         string

	listen, adminAddress     string
	logLevel, logFormat      string
	drainDelay, drainTimeout time.Duration
	maxProcs, gogc           int
	memoryLimit              string
	resolve                  []string

	load  func() (*config.Config, error) // of the demo
	ready func(listen, admin string)

	source  origin                   // nil in the demo
	keeper  *source.Keeper           // what puts it into force
	outside *source.Outside          // what tells of routes beside it
	good    config.Input             // of the source, as it was when it came into force last
	objects map[string]config.Object // what sources outside told when they were asked last
	failed  error                    // why what the source has now is not in force, nil where it is

	log     *slog.Logger
	sockets *handover.Sockets
	life    io.Closer // open as long as this process lives, for a successor
	gateway *gateway.Gateway
	admin   *admin.Server
	mu      sync.Mutex // reloads
}

// origin is where the configuration comes from: a file, a directory or a store.
type origin interface {
	Read() (config.Input, error)
	Watch(ctx context.Context, changed func())
}

func (p *process) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&p.listen, "listen", "", "address of the first listener, over the configuration's")
	f.StringVar(&p.adminAddress, "admin-address", "", "address of the admin listener, over the configuration's")
	f.StringVar(&p.logLevel, "log-level", "info", "debug|info|warn|error")
	f.StringVar(&p.logFormat, "log-format", "json", "json|text")
	durationVar(f, &p.drainDelay, "drain-delay", 5*time.Second, "how long a terminating gateway goes on accepting, so that balancers notice")
	durationVar(f, &p.drainTimeout, "drain-timeout", 30*time.Second, "how long what is in flight is waited for after that")
	f.IntVar(&p.maxProcs, "max-procs", 0, "processors to use; 0: those the process may have")
	f.StringVar(&p.memoryLimit, "memory-limit", "", "soft memory limit, as 512MiB; default: none, or GOMEMLIMIT")
	f.IntVar(&p.gogc, "gogc", 0, "garbage collection percentage; 0: Go's default, or GOGC")
	f.StringArrayVar(&p.resolve, "resolve", nil, "HOST:PORT=ADDR:PORT dials ADDR:PORT for endpoints at HOST:PORT; repeatable")
}

// loadOptions are what flags and environment say over the configuration.
func (p *process) loadOptions() config.Options {
	o := p.configuration.options()
	o.Listen, o.AdminAddress, o.StateDir = p.listen, p.adminAddress, p.state
	return o
}

func (p *process) run() error {
	resolve, err := p.prepare()
	if err != nil {
		return usageError{err}
	}
	// A reader of stdout that went away is an error of the write, not the end.
	signal.Ignore(syscall.SIGPIPE)
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)

	if p.sockets, err = handover.Inherit(); err != nil {
		return err
	}
	if p.load == nil {
		if p.source, err = p.configuration.open(p.loadOptions(), p.log); err != nil {
			return err
		}
		p.keeper = source.NewKeeper(source.KeeperOptions{
			Options: p.loadOptions(), Source: p.configuration.path, Dir: p.state, Whole: source.IsStore(p.configuration.path), Log: p.log,
		})
		p.outside = source.NewOutside(p.log)
		defer p.outside.Close()
	}
	b := build()
	p.gateway = gateway.New(gateway.Options{
		Registry: registry.All(), Log: p.log, Version: b.version, Commit: b.commit,
		Resolve: resolve, DrainDelay: p.drainDelay, DrainTimeout: p.drainTimeout, Sockets: p.sockets,
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := p.start(ctx); err != nil {
		p.stop(ctx, true)
		return err
	}
	p.announce()
	if err := resident.Settle(ctx); err != nil {
		p.log.Debug("memory that only starting needed stays", "error", err.Error())
	}
	return p.obey(ctx, signals)
}

// prepare applies the flags that concern the process, and makes the operator log.
func (p *process) prepare() (resolve map[string]string, err error) {
	if p.log, _, err = telemetry.NewLogger(os.Stderr, p.logLevel, p.logFormat); err != nil {
		return nil, err
	}
	if p.maxProcs > 0 {
		runtime.GOMAXPROCS(p.maxProcs)
	}
	if p.gogc > 0 {
		debug.SetGCPercent(p.gogc)
	}
	if p.memoryLimit != "" {
		var size config.Size
		if err := size.UnmarshalText([]byte(p.memoryLimit)); err != nil {
			return nil, fmt.Errorf("--memory-limit: %w", err)
		}
		debug.SetMemoryLimit(int64(size))
	}
	resolve = make(map[string]string)
	for _, r := range p.resolve {
		from, to, ok := strings.Cut(r, "=")
		_, _, err1 := net.SplitHostPort(from)
		_, _, err2 := net.SplitHostPort(to)
		if !ok || err1 != nil || err2 != nil {
			return nil, fmt.Errorf("--resolve %q: must be HOST:PORT=ADDR:PORT", r)
		}
		resolve[from] = to
	}
	return resolve, nil
}

func (p *process) start(ctx context.Context) error {
	c, err := p.apply()
	if err != nil {
		if c, err = p.fallBack(err); err != nil {
			return err
		}
	}
	p.follow()
	o := admin.Options{Gateway: p.gateway, Log: p.log, Sockets: p.sockets, Reload: p.reload}
	if !c.Admin.Off {
		o.Address, o.Token = c.Admin.Address, c.Admin.Token.Reveal()
	}
	switch from := p.source.(type) {
	case *source.Store:
		o.Store = from
		o.Parse = func(text []byte) (*config.Config, error) { return from.Parse(text, p.loadOptions()) }
	case *source.File:
		if !from.Single() {
			break
		}
		path := p.configuration.path
		o.WriteBack = func(text []byte) error { return source.WriteBack(path, text) }
		o.Read = func() ([]byte, error) { return os.ReadFile(path) }
		o.Parse = func(text []byte) (*config.Config, error) { return config.Parse(path, text, p.loadOptions()) }
	}
	p.admin = admin.New(o)
	if err := p.admin.Start(); err != nil {
		return &gateway.ListenError{Err: fmt.Errorf("admin: %w", err)}
	}
	if p.source != nil && p.watch {
		go p.source.Watch(ctx, func() { _ = p.reload() })
	}
	if p.outside != nil {
		go p.outside.Follow(ctx, p.told)
	}
	return nil
}

// apply reads the configuration and puts it in force.
func (p *process) apply() (*config.Config, error) {
	if p.load != nil {
		c, err := p.load()
		if err != nil {
			p.gateway.Fail(err)
			return nil, err
		}
		return c, p.gateway.Apply(c)
	}
	in, err := p.source.Read()
	if err != nil && len(in.Teams) == 0 {
		p.gateway.Fail(err)
		p.failed = err
		return nil, err
	}
	c, err := p.put(in, err)
	if p.failed = err; err == nil {
		p.good = in
		return c, nil
	}
	if len(p.good.Files) > 0 {
		p.ask(p.good) // what is not in force says nothing about sources
	}
	return c, err
}

// put puts an input in force, with what sources outside tell; unread is what of it could not be read.
func (p *process) put(in config.Input, unread error) (applied *config.Config, err error) {
	if p.ask(in) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), sourcePatience)
		p.outside.Await(ctx)
		cancel()
	}
	in.Objects = p.outside.Objects()
	p.objects = in.Objects
	var refused error // by the gateway, which has noted it
	broken, err := p.keeper.Apply(in, unread, func(c *config.Config) error {
		if len(in.Objects) > 0 {
			// What an object has wrong is no failed reload.
			var invalid config.Errors
			if err := p.gateway.Check(c); errors.As(err, &invalid) {
				return err
			}
		}
		if refused = p.gateway.Apply(c); refused == nil {
			applied = c
		}
		return refused
	})
	switch {
	case err == nil:
		p.gateway.Note(broken, p.outside)
	case refused == nil:
		p.gateway.Fail(err)
	}
	return applied, err
}

// sourcePatience is how long a configuration waits for the first word of a new source of routes.
const sourcePatience = 3 * time.Second

// ask has the sources outside asked that the configuration names, and returns how many of what they are asked is new. One
// that is broken leaves those that are.
func (p *process) ask(in config.Input) (added int) {
	s, err := in.Sources(p.loadOptions())
	if err != nil {
		return 0
	}
	watches := append(kubernetes.Watches(&s.Kubernetes), consul.Watches(&s.Consul)...)
	if len(watches) > 0 {
		p.outside.Seed(p.keeper.Objects(in))
	}
	return p.outside.Configure(watches)
}

// told puts in force what sources outside tell, beside what the configuration had when it was good: one that can not be
// read, or is broken, keeps no route from coming or going.
func (p *process) told() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if maps.EqualFunc(p.objects, p.outside.Objects(), config.Object.Same) {
		return
	}
	if _, err := p.put(p.good, nil); err != nil {
		p.log.Error("what sources outside tell is not in force; the running configuration stays", "error", err.Error())
	} else {
		p.log.Info("routes from outside have changed", "generation", p.gateway.Status().Generation)
	}
	if p.failed != nil {
		p.gateway.StillFailing(p.failed)
	}
	p.follow()
}

// fallBack starts with the configuration that was in force last, where the store can not be asked or has a broken one.
func (p *process) fallBack(cause error) (*config.Config, error) {
	var listen *gateway.ListenError
	if p.keeper == nil || !source.IsStore(p.configuration.path) || errors.As(cause, &listen) {
		return nil, cause
	}
	in, err := p.keeper.Kept()
	if err != nil {
		var invalid config.Errors
		if errors.As(cause, &invalid) {
			return nil, cause
		}
		return nil, fmt.Errorf("%w; and there is nothing to start from: %w", cause, err)
	}
	c, err := p.put(in, nil)
	if err != nil {
		return nil, fmt.Errorf("%w; and the last good configuration can not be put in force: %w", cause, err)
	}
	p.good, p.failed = in, cause
	p.gateway.Fail(cause)
	p.log.Error("the configuration can not be had from its store; the last good one is in force", "error", cause.Error())
	return c, nil
}

func (p *process) announce() {
	b := build()
	var addresses []string
	for _, l := range p.gateway.Listeners() {
		addresses = append(addresses, l.Address)
	}
	adminAddress := ""
	if p.admin != nil {
		adminAddress = p.admin.Addr()
	}
	p.log.Info("sluice is ready", "version", b.version, "listen", strings.Join(addresses, " "), "admin", adminAddress)
	p.serve()
	if p.ready != nil {
		p.ready(addresses[0], adminAddress)
	}
}

// reload loads the configuration again. A broken one leaves the running one
// alone and is reported in log, metric and API.
func (p *process) reload() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := p.apply()
	p.follow()
	if err != nil {
		p.log.Error("the configuration was not reloaded; the running one stays in force", "error", err.Error())
		return err
	}
	if err := p.configureAdmin(c); err != nil {
		p.log.Error("the configuration was reloaded, but the admin listener stays where it is", "error", err.Error())
		return err
	}
	p.log.Info("the configuration was reloaded", "generation", p.gateway.Status().Generation)
	return nil
}

// follow has the files watched that the configuration refers to, also those of one that was refused.
func (p *process) follow() {
	if s, ok := p.source.(interface{ Follow(files []string) }); ok {
		s.Follow(p.gateway.Files())
	}
}

// configureAdmin moves the admin listener to where the configuration has it.
func (p *process) configureAdmin(c *config.Config) error {
	switch {
	case p.admin == nil:
		return nil
	case c.Admin.Off:
		return p.admin.Configure("", "")
	}
	return p.admin.Configure(c.Admin.Address, c.Admin.Token.Reveal())
}

// obey acts on signals until one ends the process.
func (p *process) obey(ctx context.Context, signals <-chan os.Signal) error {
	var next successor
	for {
		var s os.Signal
		select {
		case s = <-signals:
		case err := <-next.done:
			next.done = nil
			if err != nil {
				p.log.Error("the new binary does not serve; this process goes on", "error", err.Error())
				continue
			}
			p.retire(ctx, signals)
			return nil
		}
		switch s {
		case syscall.SIGHUP:
			_ = p.reload()
		case syscall.SIGUSR1:
			if err := p.gateway.Reopen(); err != nil {
				p.log.Error("cannot reopen the log files", "error", err.Error())
			}
		case syscall.SIGUSR2:
			if next.done != nil {
				p.log.Warn("a new binary is being started already; SIGUSR2 is ignored")
				continue
			}
			next = p.upgrade(ctx)
		default:
			if next.done != nil {
				next.cancel()
				if err := <-next.done; err == nil { // it serves already, and goes on
					p.retire(ctx, signals)
					return nil
				}
			}
			p.log.Info("draining", "signal", s.String(), "delay", p.drainDelay.String(), "timeout", p.drainTimeout.String())
			p.notify(daemon.SdNotifyStopping)
			p.end(signals, func() { p.stop(ctx, false) })
			return nil
		}
	}
}

// end waits for stop, or for another signal that asks for the end.
func (p *process) end(signals <-chan os.Signal, stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		stop()
	}()
	select {
	case <-done:
	case <-again(signals):
		p.log.Warn("a second signal: ending at once")
	}
}

// again delivers the next signal that asks for the end.
func again(signals <-chan os.Signal) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		for s := range signals {
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				close(c)
				return
			}
		}
	}()
	return c
}

// stop drains the gateway, then ends the admin listener: operators see the drain to its end.
func (p *process) stop(ctx context.Context, atOnce bool) {
	if atOnce {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		cancel()
	}
	p.gateway.Shutdown(ctx)
	if p.admin != nil {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.admin.Close(closing)
	}
}
