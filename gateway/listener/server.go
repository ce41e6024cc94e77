package listener

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
)

// Handler is the gateway as an engine sees it. Both calls leave the connection
// alone: the engine renders what they put into the exchange.
type Handler interface {
	// Decide routes the request and runs its policies up to the action. An
	// error is the answer already: a rejection, or a reply. If x.Paused is set
	// a hook needs the body first: Decide is called again once it comes.
	Decide(x *exchange.Exchange) error
	// Answer carries out the action, unless err ended the request before, and
	// completes the response.
	Answer(x *exchange.Exchange, err error)
	// Handle is Decide, which is not to pause, and Answer.
	Handle(x *exchange.Exchange)
	// Done sees every exchange once, when it has ended.
	Done(x *exchange.Exchange)
}

// Server speaks HTTP/1.1 on a listener's connections with fasthttp.
type Server struct {
	l       *Listener
	handler Handler
	pool    *exchange.Pool
	fast    *fasthttp.Server
	ended   func(*exchange.Exchange) // done, bound once
	turns   sync.Pool                // of *turn
	served  chan struct{}
	err     error

	draining atomic.Bool
	h3       h3
}

// NewServer returns a server that is not started. maxHead bounds a request
// head in bytes.
func NewServer(l *Listener, h Handler, pool *exchange.Pool, maxHead int, log *slog.Logger) *Server {
	s := &Server{l: l, handler: h, pool: pool, served: make(chan struct{})}
	s.ended = s.done
	s.turns.New = func() any { return s.newTurn() }
	s.fast = &fasthttp.Server{
		Handler:         s.handle,
		ErrorHandler:    s.handleError,
		ExpectHandler:   s.handleExpect,
		ReadBufferSize:  maxHead,
		WriteBufferSize: engineBuffer,
		Concurrency:     1 << 20,
		// Bodies stream and their limits are the routes'. fasthttp reads this much
		// of a body ahead, still within the time for the head and before anything
		// is decided: as little as it can be told to.
		MaxRequestBodySize:           1,
		StreamRequestBody:            true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		NoDefaultDate:                true,
		DisablePreParseMultipartForm: true,
		SecureErrorLogMessage:        true,
		LazyRequestTime:              true,
		CloseOnShutdown:              true,
		Logger:                       fastLog{log},
	}
	s.fast.NextProto("h2", s.serveHTTP2)
	return s
}

// Start serves until the listener is closed.
func (s *Server) Start() {
	s.l.Start()
	go func() {
		defer close(s.served)
		if err := s.fast.Serve(door{s}); err != nil && !errors.Is(err, net.ErrClosed) {
			s.err = err
		}
	}()
}

// door hands the connections that are accepted to the engine that the listener
// is to use now.
type door struct{ *Server }

func (d door) Accept() (net.Conn, error) {
	for {
		nc, err := d.l.Accept()
		if err != nil {
			return nil, err
		}
		c := nc.(*conn)
		c.wait.server, c.wait.wake = d.Server, c.wake
		if !c.looped {
			return c, nil
		}
		go d.serveLoop(c)
	}
}

func (d door) Addr() net.Addr { return d.l.Addr() }
func (d door) Close() error   { return d.l.Close() }

// Drain makes every answer the last of its connection.
func (s *Server) Drain() {
	s.draining.Store(true)
	for _, c := range s.l.snapshot(nil) {
		if c.phase.Load() == phaseStreams {
			c.mux.goAway()
		}
	}
}

// Leave gives the listening socket to another process that has it too, at once.
func (s *Server) Leave() {
	s.Drain()
	s.StopHTTP3()
	s.l.leave()
}

// StopAccepting closes the listening socket and waits until the accept loop has ended.
func (s *Server) StopAccepting() {
	s.StopHTTP3()
	_ = s.l.Close()
	<-s.served
	_ = s.l.ln.Close()
}

// Listener returns the listener that is served.
func (s *Server) Listener() *Listener { return s.l }

// Close ends all connections. Call StopAccepting first.
func (s *Server) Close() {
	s.l.CloseConns()
	s.closeHTTP3()
}

// exchangeKey is the one user value of a request.
const exchangeKey = "exchange"

func (s *Server) handle(ctx *fasthttp.RequestCtx) {
	if x, ok := ctx.UserValue(exchangeKey).(*exchange.Exchange); ok {
		// ExpectHandler has decided as far as that goes without the body, and the
		// client was told to continue.
		var err error
		if x.Paused {
			err = s.handler.Decide(x)
		}
		s.answer(ctx, x, err)
		return
	}
	x, err := s.open(ctx)
	if err == nil {
		err = s.handler.Decide(x)
	}
	c := x.Client.(*conn)
	x.Verbatim = c.mayReplace() && ctx.Request.Header.IsHTTP11() && !ctx.IsHead() && !s.adorns(c)
	s.answer(ctx, x, err)
}

// open makes the exchange of a request whose head is complete.
func (s *Server) open(ctx *fasthttp.RequestCtx) (*exchange.Exchange, error) {
	x, err := s.begin(ctx.Conn().(*conn), &ctx.Request, &ctx.Response)
	ctx.SetUserValue(exchangeKey, x)
	return x, err
}

// begin makes the exchange of a request whose head is complete. The error is an
// answer.
func (s *Server) begin(c *conn, req *fasthttp.Request, res *fasthttp.Response) (*exchange.Exchange, error) {
	x := s.pool.Get(req, res, s.ended)
	s.attach(c, x)
	if r := readHead(x, &req.Header); r != nil {
		return x, r
	}
	return x, nil
}

// attach has an exchange begin on its connection.
func (s *Server) attach(c *conn, x *exchange.Exchange) {
	x.Response.Header.DisableNormalizing()
	c.serving()
	x.Client = c
	c.identify(x)
}

func (s *Server) answer(ctx *fasthttp.RequestCtx, x *exchange.Exchange, err error) {
	s.handler.Answer(x, err)
	if s.draining.Load() && x.Answer != exchange.Tunnel {
		ctx.SetConnectionClose()
	}
	c := x.Client.(*conn)
	s.secure(c, x)
	if x.Aborted.Load() || c.cut.Load() {
		// Nobody reads the answer, or what the client still sends can not be
		// told from a next request.
		ctx.SetConnectionClose()
	}
	switch {
	case x.Head != nil:
		c.replaceAnswer(x, &ctx.Response, ctx.Request.Header.ConnectionClose() || ctx.Response.ConnectionClose())
	case !ctx.Response.IsBodyStream() && !ctx.Response.SkipBody && !ctx.IsHead() && len(ctx.Response.Body()) >= engineBuffer && c.state == nil:
		c.gatherAnswer()
	case x.Answer == exchange.Tunnel && x.Tunnel != nil:
		c.phase.Store(phaseTunnel)
		t := x.Tunnel
		// strict has kept what came behind the request, so that the engine's buffer is empty.
		ctx.Hijack(func(net.Conn) { c.run(t) })
	case ctx.Response.IsBodyStream() && !ctx.Request.Header.IsHTTP11() && ctx.Response.Header.ContentLength() < 0:
		s.answerUnframed(ctx)
	}
}

// answerUnframed sends a body of unknown length to a client that does not know
// chunks (HTTP/1.0): it ends with the connection.
func (s *Server) answerUnframed(ctx *fasthttp.RequestCtx) {
	h := &ctx.Response.Header
	h.Del("Transfer-Encoding")
	h.SetConnectionClose()
	head := h.AppendBytes(nil)
	body := ctx.Response.BodyStream()
	ctx.HijackSetNoResponse(true)
	c := ctx.Conn().(*conn)
	ctx.Hijack(func(client net.Conn) {
		_, err := client.Write(head)
		if err == nil {
			_, err = io.Copy(client, struct{ io.Reader }{body})
		}
		if err != nil {
			c.reset()
		}
		// Before the exchange ends: the stream is part of it.
		_ = ctx.Response.CloseBodyStream()
	})
}

// handleExpect decides on a request with Expect: 100-continue before its body
// is asked for.
func (s *Server) handleExpect(ctx *fasthttp.RequestCtx) int {
	x, err := s.open(ctx)
	if err == nil {
		err = s.decideAhead(x)
	}
	if err == nil || x.Paused {
		return fasthttp.StatusContinue
	}
	s.answer(ctx, x, err)
	return ctx.Response.StatusCode()
}

// decideAhead decides on a request before its body is asked for.
func (s *Server) decideAhead(x *exchange.Exchange) error {
	x.BodyLater = true
	err := s.handler.Decide(x)
	x.BodyLater = false
	return err
}

// handleError answers what fasthttp could not parse.
func (s *Server) handleError(ctx *fasthttp.RequestCtx, err error) {
	x, ok := ctx.UserValue(exchangeKey).(*exchange.Exchange)
	if !ok {
		x = s.pool.Get(&ctx.Request, &ctx.Response, s.ended)
		ctx.SetUserValue(exchangeKey, x)
	}
	s.refuse(ctx.Conn().(*conn), x, err)
}

// refuse answers what could not be read.
func (s *Server) refuse(c *conn, x *exchange.Exchange, err error) {
	if x.Client == nil {
		x.Unread = true
		x.Client, x.ClientAddr = c, c.peer
		c.identify(x)
	}
	c.serving()
	c.unheard = true
	var small *fasthttp.ErrSmallBuffer
	reject := rejectMalformed
	switch {
	case c.strict.bad != nil:
		reject = c.strict.bad
	case errors.As(err, &small):
		reject = rejectHeadSize
		if c.strict.inLine() {
			reject = rejectURISize
		}
	case errors.Is(err, os.ErrDeadlineExceeded):
		reject = rejectSlowHead
	}
	s.handler.Answer(x, reject)
	s.secure(c, x)
}

func (s *Server) done(x *exchange.Exchange) {
	if x.Answer == exchange.Unanswered {
		// The connection broke between the decision and the body.
		x.Aborted.Store(true)
	}
	s.handler.Done(x)
	if c, ok := x.Client.(*conn); ok {
		if n := int64(x.Request.Header.ContentLength()); n > x.BytesIn || n == -1 {
			c.unheard = true
		}
		c.answered()
	}
}

// fastLog passes fasthttp's own messages on at debug level: what matters to
// operators is in the access log and the metrics.
type fastLog struct{ log *slog.Logger }

func (l fastLog) Printf(format string, args ...any) {
	l.log.Debug("fasthttp", "message", format)
	_ = args // may carry what a client sent
}
