package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sluice/gateway/snapshot"
)

func explainCommand() *cobra.Command {
	var src configuration
	var headers []string
	var ip, listener, consumer string
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain -c FILE METHOD URL",
		Short: "which route a request takes, which policies act on it, and why",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			req := snapshot.ExplainRequest{Method: strings.ToUpper(args[0]), URL: args[1], IP: ip, Listener: listener, Consumer: consumer, Headers: make(snapshot.ExplainHeaders)}
			for _, h := range headers {
				k, v, ok := strings.Cut(h, ":")
				if !ok {
					return usageError{errors.New("-H wants 'Name: value'")}
				}
				name := strings.TrimSpace(k)
				req.Headers[name] = append(req.Headers[name], strings.TrimSpace(v))
			}
			s, done, err := src.compile()
			if err != nil {
				return err
			}
			defer done()
			e := s.Explain(req)
			if e.Problem != "" {
				return usageError{errors.New(e.Problem)}
			}
			if asJSON {
				out := json.NewEncoder(c.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(e)
			}
			fmt.Fprint(c.OutOrStdout(), e.Text())
			return nil
		},
	}
	src.flags(c)
	c.Flags().StringArrayVarP(&headers, "header", "H", nil, "'Name: value' of the request; repeatable")
	c.Flags().StringVar(&ip, "ip", "", "address of the client")
	c.Flags().StringVar(&listener, "listener", "", "listener that gets the request; default: the first")
	c.Flags().StringVar(&consumer, "consumer", "", "consumer that the request is authenticated as, for the policies of its own")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
