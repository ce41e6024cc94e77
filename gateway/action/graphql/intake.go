package graphql

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"

	"github.com/vektah/gqlparser/v2/ast"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// intake takes GraphQL requests: from bytes to an operation that is within the limits.
type intake struct {
	reader    *reader
	persisted *persisted
	limit     int // of a body, in bytes
	counters  map[string]*[results]*telemetry.Counter
}

// taken is a request that is within the limits, as far as that is known without the values of its variables.
type taken struct {
	request  *request
	document *document
	op       *ast.OperationDefinition
}

func (k *compiler) intake(schema *ast.Schema) intake {
	return intake{reader: newReader(k.c, schema), persisted: k.persisted(schema), limit: int(k.c.MaxBody), counters: k.counters()}
}

// take reads a request and what it asks for. An error is a *exchange.Reject or a *refusal.
func (i *intake) take(x *exchange.Exchange) (*taken, error) {
	r, err := readRequest(x, i.limit)
	if err != nil {
		return nil, err
	}
	in := &taken{request: r}
	if refused := i.persisted.find(r); refused != nil {
		return in, refused
	}
	d, refused := i.reader.read(r.query)
	if refused != nil {
		return in, refused
	}
	if in.op, refused = d.choose(r.operation); refused != nil {
		return in, refused
	}
	in.document, x.Operation = d, in.op.Name
	if r.isGet && in.op.Operation == ast.Mutation {
		return in, rejectMutation
	}
	i.persisted.keep(r)
	return in, nil
}

// refused answers a request that is not carried out.
func (i *intake) refused(x *exchange.Exchange, media string, in *taken, err error) error {
	r, ok := err.(*refusal)
	if !ok {
		return err
	}
	i.count(in, resultRefused)
	return answerRefusal(x, media, r)
}

// Results of requests, for metrics.
const (
	resultOK = iota
	resultErrors
	resultRefused
	results
)

var resultNames = [results]string{"ok", "errors", "refused"}

const otherOperation = "other"

// counters are made ahead, for the names that the configuration tells: a client can not make any.
func (k *compiler) counters() map[string]*[results]*telemetry.Counter {
	names := append([]string{otherOperation}, k.c.Operations...)
	counters := make(map[string]*[results]*telemetry.Counter, len(names))
	for _, name := range names {
		c := new([results]*telemetry.Counter)
		for i, result := range resultNames {
			c[i] = k.b.World.Metrics.GraphQLOperations.With(k.b.World.Generation, k.b.Route.Name, name, result)
		}
		counters[name] = c
	}
	return counters
}

func (i *intake) count(in *taken, result int) {
	c := i.counters[otherOperation]
	if in != nil && in.op != nil && in.op.Name != "" {
		if known := i.counters[in.op.Name]; known != nil {
			c = known
		}
	}
	c[result].Inc()
}

// persisted are the operations that clients may name by their hash.
type persisted struct {
	fixed map[string]string
	only  bool
	// learned are those that clients have registered, nil where they can not.
	learned *learned
}

func (k *compiler) persisted(schema *ast.Schema) *persisted {
	p := &persisted{only: k.c.PersistedOnly}
	if k.c.AutomaticPersisted {
		var err error
		identity := "routes." + k.b.Route.Name + "/graphql/persisted"
		if p.learned, err = policy.LivingAs(k.b.World, identity, func() (*learned, error) { return newLearned(), nil }); err != nil {
			k.fail("automatic_persisted", "%s", err.Error())
		}
	}
	if k.c.Persisted == "" {
		return p
	}
	text, err := os.ReadFile(k.c.Persisted)
	if err != nil {
		k.fail("persisted", "can not be read: %s", err.Error())
		return p
	}
	if p.fixed, err = readManifest(text); err != nil {
		k.fail("persisted", "%s: %s", k.c.Persisted, err.Error())
		return p
	}
	check := newReader(k.c, schema)
	for hash, query := range p.fixed {
		d, refused := check.check(query)
		if refused != nil {
			k.fail("persisted", "%s: the operation %s: %s", k.c.Persisted, hash, refused.Error())
			continue
		}
		for _, op := range d.doc.Operations {
			if op.Name != "" {
				k.c.Operations = append(k.c.Operations, op.Name)
			}
		}
	}
	return p
}

// readManifest reads either form of a file of persisted operations.
func readManifest(text []byte) (map[string]string, error) {
	var manifest struct {
		Operations []struct{ ID, Body string }
	}
	if json.Unmarshal(text, &manifest) == nil && len(manifest.Operations) > 0 {
		out := make(map[string]string, len(manifest.Operations))
		for _, op := range manifest.Operations {
			out[op.ID] = op.Body
		}
		return out, nil
	}
	var out map[string]string
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, errManifest
	}
	return out, nil
}

const errManifest = constantError(`is no JSON of persisted operations; write {"HASH": "query …"} or {"operations": [{"id": "HASH", "body": "query …"}]}`)

// find puts in the text of an operation that is named by its hash, and refuses what may not be sent.
func (p *persisted) find(r *request) *refusal {
	if r.hash == "" {
		if p.only {
			return refuse("persisted_query_only", "only persisted operations are served here; name one in extensions.persistedQuery")
		}
		return nil
	}
	if r.query != "" {
		sum := sha256.Sum256([]byte(r.query))
		if hex.EncodeToString(sum[:]) != r.hash {
			return malformed("the hash in extensions.persistedQuery is not that of the query")
		}
	}
	if text, ok := p.fixed[r.hash]; ok {
		r.query = text
		return nil
	}
	switch {
	case p.only:
		return refuse("persisted_query_only", "there is no persisted operation of this hash")
	case r.query != "":
		return nil
	case p.learned == nil && p.fixed == nil:
		return notFound("PersistedQueryNotSupported", "persisted_query_not_supported")
	}
	if p.learned != nil {
		if text, ok := p.learned.get(r.hash); ok {
			r.query = text
			return nil
		}
	}
	return notFound("PersistedQueryNotFound", "persisted_query_not_found")
}

// notFound is a refusal that clients recognise by its message.
func notFound(message, code string) *refusal { return refuse(code, message) }

// keep learns an operation that was found good.
func (p *persisted) keep(r *request) {
	if p.learned != nil && r.hash != "" && p.fixed[r.hash] == "" {
		p.learned.put(r.hash, r.query)
	}
}
