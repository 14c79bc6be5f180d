"""Writes task.tsv: graded items of seven kinds, 24 of each, from word lists and fixed orders.

    python3 crates/bench/data/task.py > crates/bench/data/task.tsv

An item is a context and its answers, the right one first; an engine is right when it finds that one likelier than every
other. Right and wrong answers of a kind come from the same list, so none is likelier by itself alone.
"""

import itertools

EACH = 24
out = []


def kind(name, items):
    items = list(itertools.islice(items, EACH))
    assert len(items) == EACH, (name, len(items))
    out.extend(items)


def others(right, pool, n, step):
    """n members of the pool that are not right, walked through in steps so that every one serves equally often."""
    found = []
    i = step
    while len(found) < n:
        w = pool[i % len(pool)]
        if w != right and w not in found:
            found.append(w)
        i += 1
    return found


NOUNS = [("key", "keys"), ("door", "doors"), ("letter", "letters"), ("picture", "pictures"), ("road", "roads"),
         ("tree", "trees"), ("book", "books"), ("house", "houses"), ("song", "songs"), ("chair", "chairs"),
         ("teacher", "teachers"), ("ship", "ships")]
WITH = ["near", "behind", "beside", "next to"]


def agreement():
    for i, (one, many) in enumerate(NOUNS):
        other_one, other_many = NOUNS[(i + 5) % len(NOUNS)]
        yield f"The {one} {WITH[i % 4]} the {other_many}", " is", " are"
        yield f"The {many} {WITH[(i + 1) % 4]} the {other_one}", " are", " is"


CAPITALS = [("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Germany", "Berlin"), ("Japan", "Tokyo"),
            ("Egypt", "Cairo"), ("Russia", "Moscow"), ("Greece", "Athens"), ("Cuba", "Havana"), ("Peru", "Lima"),
            ("Kenya", "Nairobi"), ("Norway", "Oslo"), ("Poland", "Warsaw"), ("Ireland", "Dublin"),
            ("Portugal", "Lisbon"), ("Austria", "Vienna"), ("Hungary", "Budapest"), ("Sweden", "Stockholm"),
            ("Denmark", "Copenhagen"), ("Finland", "Helsinki"), ("Thailand", "Bangkok"), ("Iran", "Tehran"),
            ("Iraq", "Baghdad"), ("Turkey", "Ankara")]


def capitals():
    cities = [c for _, c in CAPITALS]
    for i, (land, city) in enumerate(CAPITALS):
        yield f"The capital of {land} is the city of", f" {city}", *(f" {w}" for w in others(city, cities, 3, i * 7 + 3))


OPPOSITES = [("hot", "cold"), ("big", "small"), ("fast", "slow"), ("up", "down"), ("open", "closed"), ("old", "young"),
             ("light", "dark"), ("rich", "poor"), ("hard", "soft"), ("early", "late"), ("full", "empty"),
             ("high", "low"), ("wet", "dry"), ("loud", "quiet"), ("strong", "weak"), ("left", "right"),
             ("good", "bad"), ("near", "far"), ("clean", "dirty"), ("happy", "sad"), ("thick", "thin"),
             ("true", "false"), ("first", "last"), ("cheap", "expensive")]


def opposites():
    all_words = [b for _, b in OPPOSITES]
    for i, (a, b) in enumerate(OPPOSITES):
        yield f"The opposite of \"{a}\" is the word", f" \"{b}", *(f" \"{w}" for w in others(b, all_words, 3, i * 5 + 2))


NAMES = ["Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry"]
THINGS = ["dog", "cat", "horse", "bird", "boat", "bike", "drum", "lamp"]


def recall():
    for i in range(EACH):
        n = [NAMES[(i + k * (1 + i // 8)) % 8] for k in range(3)]
        t = [THINGS[(3 * i + k) % 8] for k in range(3)]
        who = i % 3
        told = " ".join(f"{a} has a {b}." for a, b in zip(n, t))
        yield f"{told} The one who has the {t[who]} is", f" {n[who]}", *(f" {w}" for j, w in enumerate(n) if j != who)


def sums():
    for i in range(EACH):
        a, b = 2 + i % 7, 1 + (i * 5) % 8
        if i >= 12:
            a += 10
        right = a + b
        wrong = [right + 1, right - 1, right + 2]
        shown = "1 + 1 = 2, 2 + 3 = 5, 4 + 4 = 8, "
        yield f"{shown}{a} + {b} =", f" {right}", *(f" {w}" for w in wrong)


def steps():
    for i in range(EACH):
        start, by = 1 + (i * 3) % 11, 2 + i % 5
        row = [start + by * k for k in range(6)]
        right = row[5]
        yield ", ".join(map(str, row[:5])) + ",", f" {right}", f" {right + 1}", f" {right - 1}", f" {right + by}"


VERBS = [("open", "opened"), ("walk", "walked"), ("go", "went"), ("see", "saw"), ("take", "took"), ("give", "gave"),
         ("write", "wrote"), ("sing", "sang"), ("run", "ran"), ("buy", "bought"), ("think", "thought"),
         ("eat", "ate"), ("drink", "drank"), ("begin", "began"), ("fall", "fell"), ("know", "knew"),
         ("speak", "spoke"), ("break", "broke"), ("drive", "drove"), ("find", "found"), ("hold", "held"),
         ("leave", "left"), ("send", "sent"), ("build", "built")]


def past():
    forms = [b for _, b in VERBS]
    for i, (a, b) in enumerate(VERBS):
        yield f"Today I {a}. Yesterday I", f" {b}", f" {a}", *(f" {w}" for w in others(b, forms, 1, i * 11 + 4))


for name, items in [("agreement", agreement()), ("capitals", capitals()), ("opposites", opposites()),
                    ("recall", recall()), ("sums", sums()), ("steps", steps()), ("past", past())]:
    kind(name, items)

seen = set()
print("# Made by task.py beside this file: context, right answer, wrong answers, between tabs.")
for item in out:
    assert len(set(item[1:])) == len(item) - 1, item
    assert not any("\t" in x or "\n" in x for x in item), item
    assert item[0] not in seen, item
    seen.add(item[0])
    print("\t".join(item))
