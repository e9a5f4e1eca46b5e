"""Lua scripts of the online store on Redis or Valkey: the server runs each of them alone, from beginning to end.

Keys, after the prefix: `state` (a hash), `changes` (a stream), `decisions` (a hash by transaction) and
`decisions_by_time` (a sorted set); and per generation and table `<generation>:<table>` (a hash of rows by identity),
`...:served` (the set of identities that the warehouse does not hold yet) and a sorted set `...:card:<id>` or
`...:merchant:<id>` of their events. A rebuild writes the next generation beside the current one. While it does,
`state.building` names it, and what is recorded goes to both.
"""

from __future__ import annotations

from fraud_pipelines.online_store import state

PREFIX = "online_store:"
STATE, CHANGES, LOCK = f"{PREFIX}state", f"{PREFIX}changes", f"{PREFIX}rebuild"
DECISIONS, DECISIONS_BY_TIME = f"{PREFIX}decisions", f"{PREFIX}decisions_by_time"
SHARED = (STATE, CHANGES, LOCK, DECISIONS, DECISIONS_BY_TIME)
# Old events that one event takes along at most, so that no script keeps everybody waiting; the next takes more.
_FORGOTTEN_AT_ONCE = 1_000

# An item is a row of a table: identity, time, card, merchant, its members of the card's and the merchant's sorted set,
# and all its values as JSON (redis_rows.item_of). A script returns nil where the store is not there any more.
_COMMON = f"""
local PREFIX, STATE, CHANGES = '{PREFIX}', '{STATE}', '{CHANGES}'
local DECISIONS, DECISIONS_BY_TIME, LOCK = '{DECISIONS}', '{DECISIONS_BY_TIME}', '{LOCK}'
local MERCHANT_AT = {{transactions = {state.TRANSACTIONS.columns.index("merchant_id") + 1},
    label_arrivals = {state.LABEL_ARRIVALS.columns.index("merchant_id") + 1}}}

local function base_of(generation, name) return PREFIX .. generation .. ':' .. name end

local function item_at(i)
    return {{identity = ARGV[i], time = ARGV[i + 1], card = ARGV[i + 2], merchant = ARGV[i + 3],
        card_member = ARGV[i + 4], merchant_member = ARGV[i + 5], row = ARGV[i + 6]}}
end

local function add(generation, name, item, is_served)
    local base = base_of(generation, name)
    if redis.call('HSETNX', base, item.identity, item.row) == 0 then return false end
    if is_served then redis.call('SADD', base .. ':served', item.identity) end
    redis.call('ZADD', base .. ':card:' .. item.card, item.time, item.card_member)
    redis.call('ZADD', base .. ':merchant:' .. item.merchant, item.time, item.merchant_member)
    return true
end

local function news(generation, last, epoch, since)
    if epoch ~= generation then return 1, {{}} end
    if since == last then return 0, {{}} end
    -- The change at the position itself comes along where it is still there: who knows another one knows something
    -- that the store has lost or no longer keeps.
    local entries = redis.call('XRANGE', CHANGES, since, '+')
    if not entries[1] or entries[1][1] ~= since then return 1, {{}} end
    table.remove(entries, 1)
    return 0, entries
end

local function log(last, lot, kept, is_label, body, item)
    local number = tonumber(last:match('^%d+')) + 1
    local id = string.format('%.0f', number) .. '-' .. lot
    redis.call('XADD', CHANGES, 'MAXLEN', '~', kept, id,
        'is_label', is_label, 'body', body, 'card', item.card, 'merchant', item.merchant)
    return id
end

-- As state.horizon_after: a store that was filled for a longer reach keeps it, whoever writes.
local function forget(generation, name, item, needed, as_of, built)
    local newest, reach = tonumber(item.time), tonumber(needed)
    if as_of then newest = math.min(newest, tonumber(as_of) + {state.HORIZON_LEAD_US}) end
    if built then reach = math.max(reach, tonumber(built)) end
    local horizon = string.format('%.0f', newest - reach - {state.LATENESS_US})
    local base = base_of(generation, name)
    for entity, id in pairs({{card = item.card, merchant = item.merchant}}) do
        local members = redis.call('ZRANGEBYSCORE', base .. ':' .. entity .. ':' .. id, '-inf', horizon,
            'LIMIT', 0, {_FORGOTTEN_AT_ONCE})
        for _, member in ipairs(members) do
            local identity = member:match('^(.*)%z')
            local row = cjson.decode(redis.call('HGET', base, identity))
            local time = string.format('%.0f', row[2])
            for _, set in ipairs({{':card:' .. row[1], ':merchant:' .. row[MERCHANT_AT[name]]}}) do
                for _, other in ipairs(redis.call('ZRANGEBYSCORE', base .. set, time, time)) do
                    if other:match('^(.*)%z') == identity then redis.call('ZREM', base .. set, other) end
                end
            end
            redis.call('HDEL', base, identity)
            redis.call('SREM', base .. ':served', identity)
        end
    end
end
"""

# layout, generation and lot of a new store, 1 where there was one that is lost.
OPEN = (
    _COMMON
    + """
local found = redis.call('HGET', STATE, 'layout')
if found == ARGV[1] then return 0 end
redis.call('DEL', STATE, CHANGES, DECISIONS, DECISIONS_BY_TIME)
redis.call('HSET', STATE, 'layout', ARGV[1], 'generation', ARGV[2], 'last', '0-' .. ARGV[3])
if found or ARGV[4] == '1' then redis.call('HSET', STATE, 'transactions_reach_us', 0, 'labels_reach_us', 0) end
-- Stands for nothing having happened yet, so that every position is the number of a change.
redis.call('XADD', CHANGES, '0-' .. ARGV[3], 'is_label', 0, 'body', 'null', 'card', '', 'merchant', '')
return 1
"""
)

# epoch and number of the position, count of identifiers, those; then key, lowest and highest score of each range.
READ = (
    _COMMON
    + """
local state = redis.call('HMGET', STATE, 'generation', 'last', 'as_of_us', 'transactions_reach_us', 'labels_reach_us')
local generation = state[1]
if not generation then return false end
local is_reset, changes = news(generation, state[2], ARGV[1], ARGV[2])
local decisions, stored, ranges = {}, {}, {}
local asked = tonumber(ARGV[3])
for i = 4, 3 + asked do
    decisions[#decisions + 1] = redis.call('HGET', DECISIONS, ARGV[i])
    stored[#stored + 1] = redis.call('HEXISTS', base_of(generation, 'transactions'), ARGV[i])
end
for i = 4 + asked, #ARGV, 3 do
    ranges[#ranges + 1] = redis.call('ZRANGEBYSCORE', PREFIX .. generation .. ':' .. ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
return {state, is_reset, changes, decisions, stored, ranges}
"""
)

# An identifier.
TRANSACTION = (
    _COMMON
    + """
local generation = redis.call('HGET', STATE, 'generation')
return generation and redis.call('HGET', base_of(generation, 'transactions'), ARGV[1])
"""
)

# Names of tables.
SIZES = (
    _COMMON
    + """
local generation, sizes = redis.call('HGET', STATE, 'generation') or '', {}
for i, name in ipairs(ARGV) do sizes[i] = redis.call('HLEN', base_of(generation, name)) end
return sizes
"""
)

# epoch and number of the position, lot, changes kept, reach needed; then items, each with its change and its decision.
APPEND = (
    _COMMON
    + """
local state = redis.call('HMGET', STATE, 'generation', 'last', 'as_of_us', 'transactions_reach_us', 'building')
local generation, last, building = state[1], state[2], state[5]
if not generation then return false end
local is_reset, changes = news(generation, last, ARGV[1], ARGV[2])
local cards, merchants = {}, {}
for i = 6, #ARGV, 9 do cards[ARGV[i + 2]], merchants[ARGV[i + 3]] = true, true end
local is_recorded = 1 - is_reset
for _, change in ipairs(changes) do
    if cards[change[2][6]] or merchants[change[2][8]] then is_recorded = 0 end
end
if is_recorded == 0 then return {0, generation, last, is_reset, changes, {}, {}} end
local decided, stored, first = {}, {}, nil
for i = 6, #ARGV, 9 do
    local item, body, decision = item_at(i), ARGV[i + 7], ARGV[i + 8]
    if redis.call('HSETNX', DECISIONS, item.identity, decision) == 0 then
        decided[#decided + 1] = {item.identity, redis.call('HGET', DECISIONS, item.identity)}
    else
        redis.call('ZADD', DECISIONS_BY_TIME, item.time, item.identity)
        if add(generation, 'transactions', item, true) then
            if building then add(building, 'transactions', item, true) end
            last = log(last, ARGV[3], ARGV[4], 0, body, item)
            first = first or item
        else
            stored[#stored + 1] = item.identity
        end
    end
end
if first then
    redis.call('HSET', STATE, 'last', last)
    -- One card and merchant per call: a batch must not pay for each of its rows.
    forget(generation, 'transactions', first, ARGV[5], state[3], state[4])
end
return {1, generation, last, 0, changes, decided, stored}
"""
)

# table, its field of the reach, lot, changes kept, reach needed, 1 for a label; then an item and its change.
RECORD = (
    _COMMON
    + """
local state = redis.call('HMGET', STATE, 'generation', 'last', 'as_of_us', ARGV[2], 'building')
local generation, building = state[1], state[5]
if not generation then return false end
local item = item_at(7)
if not add(generation, ARGV[1], item, true) then return 0 end
if building then add(building, ARGV[1], item, true) end
redis.call('HSET', STATE, 'last', log(state[2], ARGV[3], ARGV[4], ARGV[6], ARGV[14], item))
forget(generation, ARGV[1], item, ARGV[5], state[3], state[4])
return 1
"""
)

# Those of a rebuild begin with its token and the generation it makes, and return 0 where another one took over.
BUILD = (
    _COMMON
    + """
if redis.call('GET', LOCK) ~= ARGV[1] then return 0 end
redis.call('HSET', STATE, 'building', ARGV[2])
return 1
"""
)

# table; then items of the current generation that stay, unless the new one has them.
KEEP = (
    _COMMON
    + """
if redis.call('GET', LOCK) ~= ARGV[1] then return 0 end
local current = base_of(redis.call('HGET', STATE, 'generation'), ARGV[3])
for i = 4, #ARGV, 7 do
    local item = item_at(i)
    if redis.call('HEXISTS', current, item.identity) == 1 then
        add(ARGV[2], ARGV[3], item, redis.call('SISMEMBER', current .. ':served', item.identity) == 1)
    end
end
return 1
"""
)

# as_of_us, the two lengths of the reach.
SWITCH = (
    _COMMON
    + """
if redis.call('GET', LOCK) ~= ARGV[1] or redis.call('HGET', STATE, 'building') ~= ARGV[2] then return 0 end
-- The warehouse's rows all lie before the latest moment of any rebuild.
local latest = redis.call('HGET', STATE, 'latest_as_of_us')
if not latest or tonumber(latest) < tonumber(ARGV[3]) then latest = ARGV[3] end
redis.call('HSET', STATE, 'generation', ARGV[2], 'as_of_us', ARGV[3], 'latest_as_of_us', latest,
    'transactions_reach_us', ARGV[4], 'labels_reach_us', ARGV[5])
redis.call('HDEL', STATE, 'building')
return 1
"""
)

END = (
    _COMMON
    + """
if redis.call('HGET', STATE, 'building') == ARGV[2] then redis.call('HDEL', STATE, 'building') end
if redis.call('GET', LOCK) == ARGV[1] then redis.call('DEL', LOCK) end
return 1
"""
)
