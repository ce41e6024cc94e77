package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"sluice/config"
)

func keysCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "keys",
		Short: "API keys of consumers, through the admin API of a running gateway",
		Args:  cobra.ArbitraryArgs,
		RunE:  whichOf("create", "list", "rotate", "revoke", "link", "unlink"),
	}
	root.AddCommand(keysCreate(), keysList(), keysRotate(), keysRevoke(), keysLink(), keysUnlink())
	return root
}

// whichOf is what a command says that has only commands below it.
func whichOf(names ...string) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usageError{fmt.Errorf("unknown command %q; it is one of %s", args[0], strings.Join(names, ", "))}
		}
		return usageError{fmt.Errorf("which of %s?", strings.Join(names, ", "))}
	}
}

// shownKey is a key as the admin API shows it.
type shownKey struct {
	Key      string    `json:"key"`
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Source   string    `json:"source"`
	State    string    `json:"state"`
	Hint     string    `json:"hint"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Revoked  time.Time `json:"revoked"`
	LastUsed time.Time `json:"last_used"`
	CIDRs    []string  `json:"cidrs"`
	Methods  []string  `json:"methods"`
	Paths    []string  `json:"paths"`
	Others   string    `json:"others"`
}

func keysPath(consumer string, rest ...string) string {
	path := "/api/consumers/" + url.PathEscape(consumer) + "/keys"
	for _, r := range rest {
		path += "/" + url.PathEscape(r)
	}
	return path
}

func keysCreate() *cobra.Command {
	var admin adminClient
	var name string
	var ttl time.Duration
	var cidrs, methods, paths []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "create CONSUMER",
		Short: "make a key; it is shown this once, on standard output",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			body := map[string]any{"name": name, "cidrs": cidrs, "methods": methods, "paths": paths}
			if ttl != 0 {
				body["ttl"] = config.FormatDuration(ttl)
			}
			answer, err := admin.send(c.Context(), http.MethodPost, keysPath(args[0]), body)
			if err != nil {
				return err
			}
			return showNewKey(c, answer, args[0], asJSON)
		},
	}
	admin.flags(c)
	c.Flags().StringVar(&name, "name", "", "what the key is for")
	durationVar(c.Flags(), &ttl, "ttl", 0, "how long it is valid, as 90d; 0: until it is revoked")
	c.Flags().StringArrayVar(&cidrs, "cidr", nil, "network that it may be used from; repeatable; default: any")
	c.Flags().StringArrayVar(&methods, "method", nil, "method that it may be used for; repeatable; default: any")
	c.Flags().StringArrayVar(&paths, "path", nil, "path, with what is below it, that it may be used for, or =/exact; repeatable; default: any")
	jsonFlag(c, &asJSON)
	return c
}

func jsonFlag(c *cobra.Command, asJSON *bool) {
	c.Flags().BoolVar(asJSON, "json", false, "print the answer of the admin API")
}

// showNewKey prints the key alone on standard output, so that a script can take it, and all else on standard error.
func showNewKey(c *cobra.Command, answer io.ReadCloser, consumer string, asJSON bool) error {
	defer func() { _ = answer.Close() }()
	text, err := io.ReadAll(answer)
	if err != nil {
		return err
	}
	if asJSON {
		_, err = c.OutOrStdout().Write(text)
		return err
	}
	var k shownKey
	if err := json.Unmarshal(text, &k); err != nil || k.Key == "" {
		return errors.New("the admin listener did not answer with a key")
	}
	until := "until it is revoked"
	if !k.Expires.IsZero() {
		until = "until " + k.Expires.Format(time.RFC3339)
	}
	fmt.Fprintln(c.OutOrStdout(), k.Key)
	fmt.Fprintf(c.ErrOrStderr(), "%s of %s, valid %s. The key is not shown again.\n", k.ID, consumer, until)
	return nil
}

func keysList() *cobra.Command {
	var admin adminClient
	var asJSON bool
	c := &cobra.Command{
		Use:   "list CONSUMER",
		Short: "the keys of a consumer, and when they were last used",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			answer, err := admin.get(c.Context(), keysPath(args[0]))
			if err != nil {
				return err
			}
			defer func() { _ = answer.Close() }()
			if asJSON {
				_, err = io.Copy(c.OutOrStdout(), answer)
				return err
			}
			var list struct {
				Keys []shownKey `json:"keys"`
			}
			if err := json.NewDecoder(answer).Decode(&list); err != nil {
				return fmt.Errorf("the admin listener did not answer with keys: %w", err)
			}
			return printKeys(c.OutOrStdout(), list.Keys)
		},
	}
	admin.flags(c)
	jsonFlag(c, &asJSON)
	return c
}

func printKeys(w io.Writer, keys []shownKey) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tSTATE\tBEGINS\tNAME\tEXPIRES\tLAST USED\tLIMITED TO")
	when := func(at time.Time, none string) string {
		if at.IsZero() {
			return none
		}
		return at.UTC().Format("2006-01-02 15:04:05")
	}
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	for _, k := range keys {
		used := when(k.LastUsed, "never")
		if k.Source == "configuration" {
			used = "-" // only those made at run time are watched
		}
		limits := strings.Join(append(append(append([]string(nil), k.CIDRs...), k.Methods...), k.Paths...), " ")
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", dash(k.ID), k.State, dash(k.Hint), dash(k.Name), when(k.Expires, "never"), used, dash(limits))
	}
	return t.Flush()
}

func keysRotate() *cobra.Command {
	var admin adminClient
	var overlap, ttl time.Duration
	var asJSON bool
	c := &cobra.Command{
		Use:   "rotate CONSUMER ID",
		Short: "make a key that takes the place of another, which stays valid for the overlap",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			body := map[string]any{"overlap": config.FormatDuration(overlap)}
			if ttl != 0 {
				body["ttl"] = config.FormatDuration(ttl)
			}
			answer, err := admin.send(c.Context(), http.MethodPost, keysPath(args[0], args[1], "rotate"), body)
			if err != nil {
				return err
			}
			return showNewKey(c, answer, args[0], asJSON)
		},
	}
	admin.flags(c)
	durationVar(c.Flags(), &overlap, "overlap", 24*time.Hour, "how long the old key stays valid; 0s: not at all")
	durationVar(c.Flags(), &ttl, "ttl", 0, "how long the new key is valid; 0: as long as the old one would have been")
	jsonFlag(c, &asJSON)
	return c
}

func keysRevoke() *cobra.Command {
	var admin adminClient
	c := &cobra.Command{
		Use:   "revoke CONSUMER ID",
		Short: "end a key at once",
		Args:  cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			answer, err := admin.send(c.Context(), http.MethodDelete, keysPath(args[0], args[1]), nil)
			if err != nil {
				return err
			}
			defer func() { _ = answer.Close() }()
			var k shownKey
			if err := json.NewDecoder(answer).Decode(&k); err != nil {
				return fmt.Errorf("the key is revoked, but the admin listener did not answer with it: %w", err)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s of %s is revoked\n", args[1], args[0])
			if k.Others == "later" {
				fmt.Fprintln(c.ErrOrStderr(), "The shared store does not answer: the other instances refuse the key when it does.")
			}
			return nil
		},
	}
	admin.flags(c)
	return c
}

func keysLink() *cobra.Command {
	var admin adminClient
	var expires time.Duration
	var mayChange, asJSON bool
	var base string
	c := &cobra.Command{
		Use:   "link CONSUMER",
		Short: "make a link to the consumer's own page: its keys, usage and limits",
		Long: `A link to the consumer's own page, which shows its keys, usage and limits without the admin token, and nothing of others.
It is signed with a key in state.dir and good until it expires, or until sluice keys unlink ends all links.
The page is served by the admin listener below /developer/; a proxy that passes /developer/ alone publishes the page and nothing else.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			body := map[string]any{"ttl": config.FormatDuration(expires), "may_change": mayChange}
			answer, err := admin.send(c.Context(), http.MethodPost, "/api/consumers/"+url.PathEscape(args[0])+"/links", body)
			if err != nil {
				return err
			}
			defer func() { _ = answer.Close() }()
			text, err := io.ReadAll(answer)
			if err != nil {
				return err
			}
			if asJSON {
				_, err = c.OutOrStdout().Write(text)
				return err
			}
			var made struct {
				ID      string    `json:"id"`
				Path    string    `json:"path"`
				Expires time.Time `json:"expires"`
			}
			if err := json.Unmarshal(text, &made); err != nil || made.Path == "" {
				return errors.New("the admin listener did not answer with a link")
			}
			if base == "" {
				base = admin.address
			}
			if !strings.Contains(base, "://") {
				base = "http://" + base
			}
			fmt.Fprintln(c.OutOrStdout(), strings.TrimSuffix(base, "/")+made.Path)
			fmt.Fprintf(c.ErrOrStderr(), "%s of %s, good until %s for whoever has it.\n", made.ID, args[0], made.Expires.Format(time.RFC3339))
			return nil
		},
	}
	admin.flags(c)
	durationVar(c.Flags(), &expires, "expires", 24*time.Hour, "how long the link is good, up to 30d")
	c.Flags().BoolVar(&mayChange, "may-change", false, "let whoever has the link rotate and revoke the consumer's keys")
	c.Flags().StringVar(&base, "base", "", "what the link begins with, as https://developers.example.com; default: the address of the admin listener")
	jsonFlag(c, &asJSON)
	return c
}

func keysUnlink() *cobra.Command {
	var admin adminClient
	c := &cobra.Command{
		Use:   "unlink",
		Short: "end all links to consumers' own pages at once, by replacing the key that they are signed with",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			answer, err := admin.send(c.Context(), http.MethodDelete, "/api/links", nil)
			if err != nil {
				return err
			}
			_ = answer.Close()
			fmt.Fprintln(c.OutOrStdout(), "no link that was made before is good any more")
			return nil
		},
	}
	admin.flags(c)
	return c
}
