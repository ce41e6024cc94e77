package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// adminClient asks the admin listener of a running gateway.
type adminClient struct {
	address, token string
	client         http.Client
}

func (a *adminClient) flags(c *cobra.Command) {
	c.Flags().StringVar(&a.address, "admin-address", "127.0.0.1:9901", "address of the gateway's admin listener")
	c.Flags().StringVar(&a.token, "admin-token", "", "its token, where it has one; better given as SLUICE_ADMIN_TOKEN")
	a.client.Timeout = 5 * time.Second
}

// get reads an answer; its body is the caller's to close.
func (a *adminClient) get(ctx context.Context, path string) (io.ReadCloser, error) {
	return a.send(ctx, http.MethodGet, path, nil)
}

// send asks for something with a body, nil for none. The body of the answer is the caller's to close.
func (a *adminClient) send(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	base := a.address
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	var content io.Reader = http.NoBody
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, content)
	if err != nil {
		return nil, usageError{fmt.Errorf("--admin-address %q: write HOST:PORT", a.address)}
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	res, err := a.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("no gateway answers at %s: %w", a.address, errors.Unwrap(err))
	}
	if res.StatusCode/100 == 2 {
		return res.Body, nil
	}
	defer func() { _ = res.Body.Close() }()
	var problem struct {
		Detail string `json:"detail"`
	}
	if text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20)); err == nil {
		_ = json.Unmarshal(text, &problem)
	}
	switch {
	case res.StatusCode == http.StatusUnauthorized && a.token != "":
		return nil, fmt.Errorf("the admin listener at %s does not take the token that was given: compare it with admin.token of its configuration", a.address)
	case res.StatusCode == http.StatusUnauthorized:
		return nil, fmt.Errorf("the admin listener at %s wants its token: give --admin-token or SLUICE_ADMIN_TOKEN", a.address)
	case problem.Detail != "":
		return nil, errors.New(problem.Detail)
	}
	return nil, fmt.Errorf("the admin listener at %s answered %s to %s", a.address, res.Status, path)
}
