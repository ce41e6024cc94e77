package kong

import (
	"strings"

	"sluice/config"
)

var acmePlugin = definition{
	name: "acme", noConsumer: true, to: "`listeners.secure.tls.acme`; certificates are obtained at the start, not when a client asks first",
	options: []field{
		{name: "account_email", kind: text, to: "`email`"}, {name: "api_uri", kind: text, preset: "https://acme-v02.api.letsencrypt.org/directory", to: "`directory`"},
		{name: "tos_accepted", kind: boolean, preset: "false", to: "naming the directory is agreeing; without it the plugin is refused"},
		{name: "domains", kind: texts, to: "`domains`; wildcards are refused"}, {name: "allow_any_domain", kind: boolean, preset: "false", fate: refused, to: "name the domains"},
		{name: "eab_kid", kind: text, fate: refused, to: "accounts bound to others are not made"}, {name: "eab_hmac_key", kind: text, fate: refused, to: "accounts bound to others are not made"}, {name: "account_key", kind: anything, fate: refused, to: "the account's key is made here"},
		{name: "cert_type", kind: text, preset: "rsa", enum: []string{"rsa", "ecc"}, fate: inert, to: "keys are ECDSA's"}, {name: "rsa_key_size", kind: integer, preset: "4096", fate: inert},
		{name: "renew_threshold_days", kind: number, preset: "14", fate: inert, to: "renewed when a third of the time is left"}, {name: "fail_backoff_minutes", kind: number, preset: "5", fate: inert},
		{name: "storage", kind: text, preset: "shm", enum: []string{"kong", "shm", "redis", "consul", "vault"}, fate: inert, to: "kept in the folder `storage`, /var/lib/sluice/acme"}, {name: "storage_config", kind: anything, fate: inert},
		{name: "preferred_chain", kind: text, fate: refused, to: "the authority's first chain is served"}, {name: "enable_ipv4_common_name", kind: boolean, preset: "true", fate: inert},
	},
	check: func(p *plugin) {
		c := &p.config
		wanting("account_email", "write the address of the account")(p)
		if p.route != nil || p.service != nil {
			p.t.fail(p.tree, p.path, "acme acts on everything; write it at the top of the file")
		}
		if len(c.list("domains")) == 0 {
			p.t.fail(c.tree, c.path, "there are no domains; write domains: [api.example.com]")
		}
		for i, d := range c.texts("domains") {
			if strings.Contains(d, "*") {
				p.cannot(c.at("domains"), element(c.where("domains"), i), "has an option that can not be honoured: certificates are obtained for names that are written out, not for all that fit "+d)
			}
		}
		if strings.Contains(c.text("api_uri"), "letsencrypt.org") && !c.yes("tos_accepted") {
			c.fail("tos_accepted", "the terms of the authority must be accepted; write tos_accepted: true")
		}
	},
}

// acme is the block for the listener, if the plugin is there.
func (t *translation) acme() config.Tree {
	for _, p := range t.plugins {
		if p.text("name") != "acme" {
			continue
		}
		c := &p.config
		return config.NewMap(p.tree).
			Set("email", config.NewText(c.at("account_email"), c.text("account_email"))).
			Set("domains", config.NewTexts(c.at("domains"), c.texts("domains")...)).
			Set("directory", config.NewText(c.at("api_uri"), c.text("api_uri")))
	}
	return config.Tree{}
}
