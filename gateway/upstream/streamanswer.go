package upstream

import (
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/valyala/fasthttp"

	"sluice/gateway/exchange"
	"sluice/gateway/grpcwire"
	"sluice/gateway/upstream/balance"
	"sluice/gateway/upstream/h2"
)

// deliver makes the answer the exchange's.
func (st *stream) deliver() error {
	x, res := st.x, st.res
	x.Answer = exchange.Proxied
	st.translateResponse()
	if code, only := st.onlyStatus(); only {
		x.RPCStatus = uint8(code) + 1
	}
	_, only := st.onlyStatus()
	empty := only || res.ContentLength == 0 && (st.rpc == grpcwire.Other || len(res.Header["Content-Length"]) == 0) || x.Request.Header.IsHead() ||
		res.StatusCode == fasthttp.StatusNoContent || res.StatusCode == fasthttp.StatusNotModified
	if err := st.writeHead(empty); err != nil {
		return errMalformed
	}
	if empty {
		// Nothing but a head, as it came: without a length where it has none.
		x.Response.SkipBody = st.native || x.Request.Header.IsHead()
		st.close()
		return nil
	}
	if n := res.ContentLength; n > 0 && n <= heldBody && st.rpc == grpcwire.Other {
		body := make([]byte, n)
		st.reads.Store(st.svc.sweeper.now())
		_, err := io.ReadFull(res.Body, body)
		if err == nil {
			// What stands behind it, for clients whose answers may have both.
			if _, end := res.Body.Read(make([]byte, 1)); end == io.EOF && st.native {
				st.trailers(res.Trailer)
			}
		}
		st.reads.Store(0)
		if err == nil && x.HasBodyHooks() {
			body, err = x.PushWhole(body)
		}
		if err != nil {
			return err
		}
		x.BytesOut += int64(len(body))
		x.Response.SetBodyRaw(body)
		st.close()
		return nil
	}
	size := -1
	if res.ContentLength > 0 && !x.ResizesBody && st.rpc == grpcwire.Other {
		size = int(res.ContentLength)
	}
	x.Response.SetBodyStream(st, size)
	x.Response.ImmediateHeaderFlush = true
	return nil
}

var errMalformed = errors.New("the backend did not answer with valid HTTP")

// writeHead reads the head into the response, by way of its form in HTTP/1.1.
func (st *stream) writeHead(empty bool) error {
	c, x, res := st.c, st.x, st.res
	b := append(strconv.AppendInt(append(st.head[:0], "HTTP/1.1 "...), int64(res.StatusCode), 10), ' ')
	b = append(append(b, http.StatusText(res.StatusCode)...), "\r\n"...)
	for name, values := range res.Header {
		if name == "Content-Length" {
			continue
		}
		for _, v := range values {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	switch length := res.Header["Content-Length"]; {
	case len(length) > 0 && st.rpc == grpcwire.Other:
		b = append(append(append(b, "Content-Length: "...), length[0]...), "\r\n"...)
	case empty && !st.native && res.StatusCode >= 200 && res.StatusCode != fasthttp.StatusNoContent && res.StatusCode != fasthttp.StatusNotModified:
		b = append(b, "Content-Length: 0\r\n"...)
	case !empty:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	b = append(b, "\r\n"...)
	st.head = b
	if err := ParseResponseHead(b, &c.res); err != nil {
		return err
	}
	h := &x.Response.Header
	x.Head = nil
	c.chooseDate(h)
	h.DisableNormalizing()
	if err := readInto(h, b); err != nil {
		return err
	}
	if c.res.hop {
		c.dropHop(h)
	}
	h.ResetConnectionClose()
	if empty && st.native && len(res.Header["Content-Length"]) == 0 {
		h.Del("Content-Length")
	}
	return nil
}

var _ fasthttp.BodyWriterTo = (*stream)(nil)

// SupportsBodyWriteTo tells fasthttp to use WriteTo.
func (st *stream) SupportsBodyWriteTo() bool { return true }

var _ exchange.ResponseStream = (*stream)(nil)

// Hold implements exchange.ResponseStream. The messages of a call are nobody's
// to wait for the last of.
func (st *stream) Hold(limit int) (body []byte, whole bool, err error) {
	if st.rpc != grpcwire.Other {
		return nil, false, nil
	}
	held := []byte{}
	buf := make([]byte, min(limit+1, 32<<10))
	for len(held) <= limit {
		chunk, last, err := st.next(buf)
		if err != nil {
			return nil, false, st.holdFailure(err)
		}
		held = append(held, chunk...)
		if last {
			st.close()
			return held, true, nil
		}
	}
	st.ahead, st.aheadOf = held, st.x.BodyHooks()
	return held[:limit], false, nil
}

// holdFailure is the answer where a body could not be held.
func (st *stream) holdFailure(err error) error {
	switch {
	case err == errStalled:
		return rejectTimeout
	case st.c.isClientFault(err):
		return st.c.rejectFor(err)
	}
	return exchange.ErrResponseBody
}

// More implements exchange.ResponseStream: the engine does not tell.
func (st *stream) More() bool { return false }

// Discard implements exchange.ResponseStream.
func (st *stream) Discard() { st.close() }

// WriteTo relays the answer: each piece goes on when it has come.
func (st *stream) WriteTo(w io.Writer) (written int64, err error) {
	x := st.x
	x.Begun = x.Response.ImmediateHeaderFlush
	buf := uploadBuffers.Get().(*[]byte)
	defer uploadBuffers.Put(buf)
	for {
		chunk, last, err := st.next(*buf)
		if err != nil {
			return written, err
		}
		if len(chunk) > 0 {
			n, err := w.Write(chunk)
			written += int64(n)
			x.BytesOut += int64(n)
			x.Begun = x.Begun || n > 0
			if err != nil {
				x.Aborted.Store(true)
				return written, st.broken(exchange.ErrClientGone)
			}
		}
		if last {
			st.close()
			return written, nil
		}
	}
}

// Read is for readers that want the body in their own buffer.
func (st *stream) Read(p []byte) (int, error) {
	st.x.Begun = true
	for len(st.unread) == 0 {
		if st.over || st.ending {
			st.close()
			return 0, io.EOF
		}
		buf := make([]byte, len(p))
		chunk, last, err := st.next(buf)
		if err != nil {
			return 0, err
		}
		st.unread, st.ending = chunk, last
	}
	n := copy(p, st.unread)
	st.unread = st.unread[n:]
	st.x.BytesOut += int64(n)
	return n, nil
}

// Close ends the body, read or not.
func (st *stream) Close() error {
	if !st.over {
		_ = st.broken(exchange.ErrClientGone)
	}
	return nil
}

// next returns the next piece of the answer, and whether it is the last.
func (st *stream) next(buf []byte) (chunk []byte, last bool, err error) {
	x := st.x
	if st.ahead != nil {
		chunk, st.ahead = st.ahead, nil
		if chunk, err = x.PushBodyFrom(st.aheadOf, chunk, false); err != nil {
			return nil, false, st.broken(err)
		}
		return chunk, false, nil
	}
	if st.rpc == grpcwire.Other {
		st.reads.Store(st.svc.sweeper.now())
	}
	n, err := st.res.Body.Read(buf)
	st.reads.Store(0)
	chunk = buf[:n]
	switch {
	case err == io.EOF:
		last = true
		st.trailers(st.res.Trailer)
	case err != nil:
		err = st.explain(err)
		if st.rpc == grpcwire.Other || err == exchange.ErrClientGone || x.Aborted.Load() {
			return nil, false, st.broken(err)
		}
		// The client learns what became of its call, after what has come of it.
		last = true
		code, message := st.verdict(err)
		st.c.outcome = balance.Failure
		if code == grpcwire.DeadlineExceeded {
			st.c.outcome = balance.Cancelled
		}
		st.trailers(http.Header{
			"Grpc-Status":  {strconv.Itoa(int(code))},
			"Grpc-Message": {string(grpcwire.AppendMessage(nil, message))},
		})
	}
	chunk = st.translateBody(chunk, last)
	if x.HasBodyHooks() {
		if chunk, err = x.PushBody(chunk, last); err != nil {
			return nil, false, st.broken(err)
		}
	}
	return chunk, last, nil
}

// verdict is the status of a call that broke in the middle.
func (st *stream) verdict(err error) (grpcwire.Code, string) {
	switch code, reset := h2.ResetCode(err); {
	case err == errDeadline:
		st.x.Reason = "deadline_exceeded"
		return grpcwire.DeadlineExceeded, "the deadline of the call has passed"
	case err == errBodyTooLarge:
		st.x.Reason = rejectTooLarge.Reason
		return grpcwire.ResourceExhausted, "the request body is too large"
	case st.c.isClientFault(err):
		st.x.Reason = "body_incomplete"
		return grpcwire.Cancelled, "the request could not be read to its end"
	case reset:
		st.x.Reason = "upstream_reset"
		return grpcwire.OfReset(code), "the service reset the call"
	}
	st.x.Reason = "upstream_truncated"
	return grpcwire.Unavailable, "the service closed the connection before the call had ended"
}

// trailers passes the trailers of the answer on.
func (st *stream) trailers(trailer http.Header) {
	if st.rpc != grpcwire.Other {
		code := grpcwire.Unknown
		if v := trailer["Grpc-Status"]; len(v) > 0 {
			code, _ = grpcwire.ParseCode(v[0])
		}
		if st.x.RPCStatus == 0 {
			st.x.RPCStatus = uint8(code) + 1
		}
		if st.faulty(code) && st.c.outcome == balance.Success {
			st.c.outcome = balance.ServerError
		}
		if st.rpc != grpcwire.Native {
			st.keepTrailers(trailer)
			return
		}
	}
	client, _ := st.x.Client.(trailing)
	h := &st.x.Response.Header
	for name, values := range trailer {
		for i, v := range values {
			switch {
			case client != nil:
				client.Trailer(name, v)
			case i > 0 || h.AddTrailer(name) == nil:
				h.Add(name, v)
			}
		}
	}
}

// broken ends an answer before its end.
func (st *stream) broken(err error) error {
	if st.over {
		return err
	}
	x := st.x
	switch {
	case err == exchange.ErrClientGone || x.Aborted.Load():
		x.Aborted.Store(true)
		x.Reason = reasonClientGone
		st.c.outcome = balance.Cancelled
		if st.rpc != grpcwire.Other && x.RPCStatus == 0 {
			x.RPCStatus = uint8(grpcwire.Cancelled) + 1
		}
	case st.c.isClientFault(err):
		x.Reason = "body_incomplete"
	case err == errStalled:
		x.Reason = "upstream_stalled"
		st.c.outcome = balance.Failure
	default:
		x.Reason = "upstream_truncated"
		st.c.outcome = balance.Failure
	}
	st.close()
	return err
}
