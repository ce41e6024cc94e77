package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/config/examples"
)

const demoSecret = "sluice-demo-secret-not-for-production"

func demoCommand() *cobra.Command {
	var p process
	c := &cobra.Command{
		Use:   "demo",
		Short: "run the gateway with three demo services and print curl lines to try",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			environ := append(os.Environ(), "DEMO_SECRET="+demoSecret)
			for _, name := range []string{"users", "orders", "products"} {
				url, stop, err := startDemoService(name)
				if err != nil {
					return err
				}
				defer stop()
				environ = append(environ, "DEMO_"+strings.ToUpper(name)+"_URL="+url)
			}
			p.load = func() (*config.Config, error) {
				return config.Parse("demo.yaml", examples.Demo, config.Options{Environ: environ, Listen: p.listen, AdminAddress: p.adminAddress})
			}
			p.ready = func(listen, admin string) { printTour(c, listen, admin) }
			return p.run()
		},
	}
	p.flags(c)
	return c
}

// startDemoService runs one of the services behind the demo on a free port.
func startDemoService(name string) (url string, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &fasthttp.Server{
		Name: "demo-" + name,
		Handler: func(ctx *fasthttp.RequestCtx) {
			id := strings.Trim(string(ctx.Path()), "/")
			answer := map[string]any{
				"service":        name,
				"path":           string(ctx.Path()),
				"user":           string(ctx.Request.Header.Peek("X-User-ID")),
				"correlation_id": string(ctx.Request.Header.Peek("X-Correlation-ID")),
			}
			if id == "" {
				answer[name] = []string{"1", "2", "3"}
			} else {
				answer["id"] = id
			}
			body, err := json.Marshal(answer)
			if err != nil {
				ctx.Error("internal error", fasthttp.StatusInternalServerError)
				return
			}
			ctx.SetContentType("application/json")
			ctx.SetBody(append(body, '\n'))
		},
		ReadTimeout: 30 * time.Second,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ln)
	}()
	return "http://" + ln.Addr().String(), func() {
		_ = s.Shutdown()
		<-done
	}, nil
}

// printTour prints lines that can be pasted.
func printTour(c *cobra.Command, listen, admin string) {
	token, err := (&tokenOptions{subject: "alice", secret: demoSecret, ttl: 24 * time.Hour}).sign(time.Now())
	if err != nil {
		return
	}
	listen, admin = local(listen), local(admin)
	fmt.Fprintf(c.OutOrStdout(), `
Sluice serves three demo services. In another terminal:

  TOKEN=%s

  curl -i http://%[2]s/api/v1/users/7 -H "Authorization: Bearer $TOKEN"   # 200, as alice
  curl -i http://%[2]s/api/v1/users/7                                     # 401: no token
  curl -i http://%[2]s/api/v1/orders -H "Authorization: Bearer $TOKEN"    # 200, 50 a minute
  curl -i http://%[2]s/api/v1/products                                    # 200 from the service, then from the cache
  curl -i http://%[2]s/nothing-here                                       # 404
  curl -s http://%[3]s/health                                             # breakers
  curl -s http://%[3]s/metrics | grep sluice_requests_total               # counters

and in a browser http://%[3]s/ is the dashboard

`, token, listen, admin)
}

// local turns an address that listens on everything into one to connect to.
func local(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
