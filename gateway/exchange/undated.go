package exchange

import (
	"net"
	"sync"

	"github.com/valyala/fasthttp"
)

// Undated makes h an empty response head as the engine hands it over: without a
// Date or a Content-Type of fasthttp's. The first is a setting of servers
// alone, which others can but copy from a head that one has made.
func Undated(h *fasthttp.ResponseHeader) { undated().CopyTo(h) }

var undated = sync.OnceValue(func() *fasthttp.ResponseHeader {
	h := new(fasthttp.ResponseHeader)
	s := fasthttp.Server{
		NoDefaultDate: true, NoDefaultContentType: true, NoDefaultServerHeader: true,
		Handler: func(ctx *fasthttp.RequestCtx) { ctx.Response.Header.CopyTo(h) },
	}
	client, server := net.Pipe()
	go func() {
		_, _ = client.Write([]byte("GET / HTTP/1.0\r\n\r\n"))
		for b := make([]byte, 512); ; {
			if _, err := client.Read(b); err != nil {
				return
			}
		}
	}()
	_ = s.ServeConn(server)
	_ = client.Close()
	return h
})
