package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func topCommand() *cobra.Command {
	var admin adminClient
	var interval time.Duration
	var frames, rows int
	c := &cobra.Command{
		Use:   "top",
		Short: "live requests, latency, errors, breakers and limits of a running gateway",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usageError{errors.New("--interval must be 100ms at least")}
			}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return top(ctx, c.OutOrStdout(), &admin, interval, frames, rows)
		},
	}
	admin.flags(c)
	durationVar(c.Flags(), &interval, "interval", 2*time.Second, "time between two looks")
	c.Flags().IntVar(&frames, "count", 0, "end after this many looks; 0: when interrupted")
	c.Flags().IntVar(&rows, "rows", 15, "routes to show, the busiest first")
	return c
}

// topStats is what is shown of GET /api/stats.
type topStats struct {
	Generation uint64        `json:"generation"`
	Draining   bool          `json:"draining"`
	LastError  string        `json:"last_error"`
	Total      topRoute      `json:"total"`
	Routes     []topRoute    `json:"routes"`
	Services   []topService  `json:"services"`
	Listeners  []topListener `json:"listeners"`
}

type topRoute struct {
	Route        string  `json:"route"`
	PerSecond    float64 `json:"per_second"`
	ClientErrors float64 `json:"client_errors_per_second"`
	ServerErrors float64 `json:"server_errors_per_second"`
	InFlight     int64   `json:"in_flight"`
	Latency      struct {
		P50 float64 `json:"p50"`
		P95 float64 `json:"p95"`
		P99 float64 `json:"p99"`
	} `json:"latency_ms"`
}

type topService struct {
	Service   string `json:"service"`
	Breaker   string `json:"breaker"`
	Endpoints []struct {
		Endpoint  string  `json:"endpoint"`
		Up        bool    `json:"up"`
		Breaker   string  `json:"breaker"`
		InFlight  int64   `json:"in_flight"`
		LatencyMS float64 `json:"latency_ms"`
	} `json:"endpoints"`
}

type topListener struct {
	Name   string `json:"name"`
	Idle   int    `json:"idle"`
	Active int    `json:"active"`
}

// top shows a frame at every look.
func top(ctx context.Context, w io.Writer, admin *adminClient, interval time.Duration, frames, rows int) error {
	clear := ""
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			clear = "\x1b[H\x1b[2J"
		}
	}
	var before map[string]float64
	looked := time.Now()
	for n := 1; ; n++ {
		stats, limited, err := look(ctx, admin)
		if err != nil {
			if ctx.Err() != nil { // interrupted, which is how it ends
				err = nil
			}
			return err
		}
		now := time.Now()
		frame := new(strings.Builder)
		frame.WriteString(clear)
		writeTop(frame, stats, rates(before, limited, now.Sub(looked)), rows)
		before, looked = limited, now
		if _, err := io.WriteString(w, frame.String()); err != nil {
			return err
		}
		if n == frames {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

// look asks for the counts, and for how often each limit has refused.
func look(ctx context.Context, admin *adminClient) (*topStats, map[string]float64, error) {
	body, err := admin.get(ctx, "/api/stats")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = body.Close() }()
	stats := new(topStats)
	if err := json.NewDecoder(body).Decode(stats); err != nil {
		return nil, nil, fmt.Errorf("%s/api/stats: %w", admin.address, err)
	}
	metrics, err := admin.get(ctx, "/metrics")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = metrics.Close() }()
	limited := make(map[string]float64)
	for lines := bufio.NewScanner(metrics); lines.Scan(); {
		labels, ok := strings.CutPrefix(lines.Text(), "sluice_rate_limited_total{")
		if !ok {
			continue
		}
		labels, value, _ := strings.Cut(labels, "} ")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			limited[labels] = n
		}
	}
	return stats, limited, nil
}

// rates are the refusals per second of each limit that refused since the look before.
func rates(before, after map[string]float64, passed time.Duration) map[string]float64 {
	if before == nil {
		return nil
	}
	out := make(map[string]float64)
	for labels, n := range after {
		if d := n - before[labels]; d > 0 {
			out[labels] = d / passed.Seconds()
		}
	}
	return out
}

func writeTop(w io.Writer, s *topStats, limited map[string]float64, rows int) {
	state := ""
	if s.Draining {
		state = ", draining"
	}
	fmt.Fprintf(w, "%.0f requests/s, %.1f refused or wrong/s (4xx), %.1f failed/s (5xx), %d in flight, configuration %d%s\n",
		s.Total.PerSecond, s.Total.ClientErrors, s.Total.ServerErrors, s.Total.InFlight, s.Generation, state)
	for _, l := range s.Listeners {
		fmt.Fprintf(w, "listener %s: %d connections at work, %d idle\n", l.Name, l.Active, l.Idle)
	}
	if s.LastError != "" {
		fmt.Fprintf(w, "the last reload failed: %s\n", s.LastError)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\nROUTE\tREQ/S\t4XX/S\t5XX/S\tIN FLIGHT\tP50 MS\tP95 MS\tP99 MS\n")
	routes := slices.Clone(s.Routes)
	slices.SortStableFunc(routes, func(a, b topRoute) int {
		switch {
		case a.PerSecond > b.PerSecond:
			return -1
		case a.PerSecond < b.PerSecond:
			return 1
		}
		return 0
	})
	for i := range routes {
		if i == rows {
			fmt.Fprintf(t, "and %d more\n", len(routes)-rows)
			break
		}
		r := &routes[i]
		fmt.Fprintf(t, "%s\t%.1f\t%.1f\t%.1f\t%d\t%.2f\t%.2f\t%.2f\n", r.Route, r.PerSecond, r.ClientErrors, r.ServerErrors, r.InFlight, r.Latency.P50, r.Latency.P95, r.Latency.P99)
	}
	fmt.Fprint(t, "\nSERVICE\tBREAKER\tENDPOINT\tSTATE\tIN FLIGHT\tLATENCY MS\n")
	for _, service := range s.Services {
		name, breaker := service.Service, service.Breaker
		for _, e := range service.Endpoints {
			up := "up"
			switch {
			case !e.Up:
				up = "down"
			case e.Breaker != "closed" && e.Breaker != "off":
				up = e.Breaker
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%.2f\n", name, breaker, e.Endpoint, up, e.InFlight, e.LatencyMS)
			name, breaker = "", ""
		}
	}
	if len(limited) > 0 {
		fmt.Fprint(t, "\nLIMIT\tREFUSED/S\n")
		for _, l := range slices.Sorted(maps.Keys(limited)) {
			fmt.Fprintf(t, "%s\t%.1f\n", l, limited[l])
		}
	}
	_ = t.Flush()
}
